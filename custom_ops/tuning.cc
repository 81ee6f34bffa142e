#include "custom_ops/tuning.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "plan/problem.h"

namespace cks::ort {
namespace {

// A file is this line, then a line for each problem: tile, tab, version of the library, tab, problem.
constexpr const char* kFirstLine = "ort_cks tiles, format 1";

[[noreturn]] void refuse(const std::string& file, const std::string& why) {
  throw Error("the tune cache '" + file + "' " + why);
}

// Kernels differ from version to version.
std::string key_of(const std::string& problem) { return ORT_CKS_VERSION "\t" + problem; }

Tiles read(const std::string& file) {
  std::error_code unknown;  // what is wrong with the path shows when the file is written
  if (std::filesystem::is_directory(file, unknown)) refuse(file, "is a folder; name a file");
  if (!std::filesystem::exists(file, unknown)) return {};
  std::ifstream in(file);
  if (!in) refuse(file, std::string("cannot be read: ") + std::strerror(errno));
  std::string line;
  if (!std::getline(in, line)) return {};  // it is empty
  if (line != kFirstLine) {
    refuse(file, std::string("does not begin with '") + kFirstLine +
                     "', so it is no file of this version's; name another one, or delete it");
  }
  Tiles tiles;
  while (std::getline(in, line)) {
    const size_t tab = line.find('\t');
    if (tab == 0 || tab == std::string::npos || line.find('\t', tab + 1) == std::string::npos) continue;
    tiles[line.substr(tab + 1)] = line.substr(0, tab);
  }
  return tiles;
}

// A file beside the one that it is to replace; it is gone in the end, whatever happens.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& file) : file_(file), name_(file + ".XXXXXX") {
    descriptor_ = mkostemp(name_.data(), O_CLOEXEC);
    if (descriptor_ < 0) fail();
  }
  ~TemporaryFile() {
    close(descriptor_);
    if (!renamed_) unlink(name_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const std::string& text) {
    for (size_t at = 0; at < text.size();) {
      const ssize_t written = ::write(descriptor_, text.data() + at, text.size() - at);
      if (written < 0 && errno != EINTR) fail();
      at += size_t(std::max<ssize_t>(written, 0));
    }
  }
  void replace() {
    if (fchmod(descriptor_, 0644) != 0 || rename(name_.c_str(), file_.c_str()) != 0) fail();
    renamed_ = true;
  }

 private:
  [[noreturn]] void fail() const { refuse(file_, std::string("cannot be written: ") + std::strerror(errno)); }

  const std::string file_;
  std::string name_;
  int descriptor_;
  bool renamed_ = false;
};

// Between processes that write files of one folder, as far as its file system locks.
class FolderLock {
 public:
  explicit FolderLock(const std::string& file)
      : folder_(open(std::filesystem::path(file).parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (folder_ >= 0) flock(folder_, LOCK_EX);
  }
  ~FolderLock() {
    if (folder_ >= 0) close(folder_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int folder_;
};

}  // namespace

Tuning::Tuning(FoundTiles& found, const std::string& file)
    : found_(found), file_(file.empty() ? file : std::filesystem::weakly_canonical(file).string()) {
  if (file_.empty()) return;
  in_file_ = read(file_);
  TemporaryFile can_be_written(file_);  // a session should say so when it starts, not when it has searched for minutes
  const auto lock = turn();
  found_.tiles.insert(in_file_.begin(), in_file_.end());
}

std::optional<std::string> Tuning::find(const std::string& problem) const {
  const auto at = found_.tiles.find(key_of(problem));
  return at == found_.tiles.end() ? std::nullopt : std::optional(at->second);
}

void Tuning::keep(const std::string& problem, const std::string& tile) {
  const std::string key = key_of(problem);
  found_.tiles[key] = tile;
  if (const auto at = in_file_.find(key); file_.empty() || (at != in_file_.end() && at->second == tile)) return;
  in_file_[key] = tile;
  const FolderLock lock(file_);
  // All that this session has put there, lest something be lost where the file system does not lock.
  Tiles tiles = in_file_;
  tiles.merge(read(file_));
  std::string text = std::string(kFirstLine) + "\n";
  for (const auto& [known, its_tile] : tiles) text += its_tile + "\t" + known + "\n";
  TemporaryFile next(file_);
  next.write(text);
  next.replace();
}

}  // namespace cks::ort
