#!/bin/sh
# Unpacks Debian's libonnxruntime-dev into a folder: debian_headers.sh FOLDER
#
# For a Debian-like machine whose own suite lacks the package. The package comes from a newer Debian suite on the mirror
# that this machine's apt uses, through apt itself, with all of apt's state inside FOLDER: nothing is installed, no root is
# needed, and the machine's own package lists stay as they are. apt checks the suite's signature with the keys this
# machine trusts; where it cannot, this fails.
set -eu
suite=trixie
package=libonnxruntime-dev
mkdir -p "$1"
folder=$(cd "$1" && pwd)
. /etc/os-release

# One "URI KEYRING" line for each source of this machine's own distribution (KEYRING "-": apt's default), from the deb822
# and the one-line files; third-party sources and the security suites are left out.
mirrors() {
  find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.sources' -type f -exec cat {} \; -exec echo \; 2>/dev/null |
    awk -v own="${VERSION_CODENAME:-none}" '
      function flush(  n, i, list) {
        if (types ~ /(^| )deb( |$)/ && enabled != "no" && (" " suites " ") ~ (" (" own "|stable|oldstable|testing) ")) {
          n = split(uris, list, " ")
          for (i = 1; i <= n; ++i) print list[i], (key ~ /^\// ? key : "-")
        }
        types = uris = suites = key = enabled = ""
      }
      /^#/ { next }
      /^[ \t]*$/ { flush(); next }
      /^[ \t]/ { value = $0 }  # continues the field above
      /^[^ \t]/ { name = tolower($1); value = $0; sub(/^[^:]*:[ \t]*/, "", value) }
      name == "types:" { types = types " " value }
      name == "uris:" { uris = uris " " value }
      name == "suites:" { suites = suites " " value }
      name == "signed-by:" { key = value }
      name == "enabled:" { enabled = tolower(value) }
      END { flush() }'
  find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -type f -exec cat {} + 2>/dev/null |
    awk -v own="${VERSION_CODENAME:-none}" '
      $1 != "deb" { next }
      {
        key = "-"
        if (match($0, /\[[^]]*\]/)) {
          options = substr($0, RSTART + 1, RLENGTH - 2)
          if (match(options, /signed-by=[^ ]*/)) key = substr(options, RSTART + 10, RLENGTH - 10)
          sub(/\[[^]]*\]/, "")
        }
        if ($3 == own || $3 == "stable" || $3 == "oldstable" || $3 == "testing") print $2, key
      }'
}

# apt with its state in FOLDER. The given file is read last, so it outranks the machine's own settings.
private_apt() {
  apt-get -q -c "$folder/apt.conf" "$@"
}

mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
cat > "$folder/apt.conf" << END
Dir::Etc::SourceList "$folder/source.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$folder/lists";
Dir::Cache "$folder/cache";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
END

mirrors | sort -u > "$folder/mirrors"
if ! [ -s "$folder/mirrors" ]; then
  echo "this machine's apt sources name no mirror of its own distribution"
  exit 1
fi
while read -r uri key; do
  signed_by=
  [ "$key" = "-" ] || signed_by="[signed-by=$key] "
  echo "deb $signed_by$uri $suite main" > "$folder/source.list"
  echo "trying $package of Debian $suite from $uri"
  if private_apt -o APT::Update::Error-Mode=any update > "$folder/log" 2>&1 &&
    (cd "$folder" && private_apt download "$package") >> "$folder/log" 2>&1 &&
    dpkg-deb -x "$folder/$package"_*.deb "$folder"; then
    echo "unpacked $(cd "$folder" && ls "$package"_*.deb), signature checked by apt"
    exit 0
  fi
  grep -E '^(W|E|Err)' "$folder/log" | head -5 || true
done < "$folder/mirrors"
echo "apt could not fetch and verify $package; a newer debian-archive-keyring helps where the signature was the trouble"
exit 1
