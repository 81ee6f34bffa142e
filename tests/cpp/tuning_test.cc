// What is kept of searched tiles (custom_ops/tuning.h): in a process, in a file, by processes that share a file.
#include "custom_ops/tuning.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "plan/problem.h"

using cks::ort::FoundTiles;
using cks::ort::Tuning;

namespace {

const std::string kFirstLine = "ort_cks tiles, format 1\n";

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  ++failed;
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "tuning_test.XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& file) const { return (path_ / file).string(); }
  size_t files() const {
    const std::filesystem::directory_iterator all(path_);
    return size_t(std::distance(begin(all), end(all)));
  }

 private:
  std::filesystem::path path_;
};

void write(const std::string& file, const std::string& text) { std::ofstream(file) << text; }

std::string read(const std::string& file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

// What a Tuning of this file throws; empty where it throws nothing.
std::string refusal(const std::string& file) {
  FoundTiles found;
  try {
    Tuning(found, file);
  } catch (const cks::Error& e) {
    return e.what();
  }
  return "";
}

void keep(Tuning& tuning, const std::string& problem, const std::string& tile) {
  const auto turn = tuning.turn();
  tuning.keep(problem, tile);
}

void test_sessions_of_a_process_share_what_they_find() {
  FoundTiles process, other_process;
  Tuning first(process, ""), second(process, ""), other(other_process, "");
  expect(!first.find("a"), "nothing is known at first");
  keep(first, "a", "tile");
  expect(second.find("a") == "tile", "another session of the process knows it");
  expect(!second.find("b"), "of this problem alone");
  expect(!other.find("a"), "another process does not");
}

void test_a_file_carries_it_to_another_process() {
  const Folder folder;
  const std::string file = folder / "cache";
  FoundTiles process;
  Tuning writer(process, file);
  expect(folder.files() == 0, "a session that finds nothing writes nothing");
  keep(writer, "b, 3x3", "tile 2");
  keep(writer, "a", "tile 1");
  expect(read(file) == kFirstLine + "tile 1\t1.2.3\ta\ntile 2\t1.2.3\tb, 3x3\n", "what the file says");
  FoundTiles other_process;
  Tuning reader(other_process, file);
  expect(reader.find("a") == "tile 1" && reader.find("b, 3x3") == "tile 2", "another process knows it");
  const auto written = std::filesystem::last_write_time(file);
  keep(reader, "a", "tile 1");
  expect(std::filesystem::last_write_time(file) == written, "what is there is not written again");
  keep(reader, "a", "tile 3");
  expect(read(file) == kFirstLine + "tile 3\t1.2.3\ta\ntile 2\t1.2.3\tb, 3x3\n",
         "a better answer replaces the old one");
  expect(folder.files() == 1, "no temporary file is left");
}

void test_a_session_without_a_file_does_not_keep_it_from_one_with() {
  const Folder folder;
  FoundTiles process;
  Tuning without(process, "");
  keep(without, "a", "tile");
  Tuning with(process, folder / "cache");
  expect(with.find("a") == "tile", "it is known");
  keep(with, "a", "tile");
  expect(read(folder / "cache") == kFirstLine + "tile\t1.2.3\ta\n", "and written all the same");
}

void test_a_link_stays_one() {
  const Folder folder;
  std::filesystem::create_symlink(folder / "real", folder / "link");
  write(folder / "real", "");
  FoundTiles process;
  Tuning tuning(process, folder / "link");
  keep(tuning, "a", "tile");
  expect(std::filesystem::is_symlink(folder / "link"), "the link is not replaced");
  expect(read(folder / "real") == kFirstLine + "tile\t1.2.3\ta\n", "but what it leads to");
}

void test_what_others_wrote_stays() {
  const Folder folder;
  const std::string file = folder / "cache", others = "x\t0.9.0\ta\ny\t1.2.3\tb\n";
  FoundTiles process;
  Tuning tuning(process, file);
  write(file, kFirstLine + others);
  keep(tuning, "a", "tile");
  expect(read(file) == kFirstLine + "x\t0.9.0\ta\ntile\t1.2.3\ta\ny\t1.2.3\tb\n", "other problems and versions");
}

void test_answers_of_another_version_do_not_count() {
  const Folder folder;
  write(folder / "cache", kFirstLine + "tile\t1.2.2\ta\n");
  FoundTiles process;
  expect(!Tuning(process, folder / "cache").find("a"), "kernels may have changed");
}

void test_damaged_lines_count_for_nothing() {
  const Folder folder;
  const std::string file = folder / "cache";
  write(file, kFirstLine + "\n\t\ntile\t1.2.3\ta\ntile\n\t1.2.3\tc\n\xff\xfe\x01 garbage\ntile 2\t1.2.3\tb\nti");
  FoundTiles process;
  Tuning tuning(process, file);
  expect(tuning.find("a") == "tile" && tuning.find("b") == "tile 2", "the others count");
  expect(!tuning.find("c") && process.tiles.size() == 2, "they do not");
  keep(tuning, "d", "tile 3");
  expect(read(file) == kFirstLine + "tile\t1.2.3\ta\ntile 2\t1.2.3\tb\ntile 3\t1.2.3\td\n",
         "and go when it is written");
}

void test_files_that_are_something_else_are_refused_and_stay() {
  const Folder folder;
  write(folder / "thesis", "Chapter 1\n");
  write(folder / "newer", "ort_cks tiles, format 2\n");
  write(folder / "empty", "");
  for (const char* file : {"thesis", "newer"}) {
    expect(refusal(folder / file).find("does not begin with 'ort_cks tiles, format 1'") != std::string::npos,
           "a foreign file is named");
  }
  expect(read(folder / "thesis") == "Chapter 1\n", "it is untouched");
  expect(refusal(folder / "empty").empty(), "an empty file is a new one");
  expect(refusal(folder / "").find("is a folder") != std::string::npos, "a folder is no file");
  const std::string nowhere = folder / "no/such/folder/cache";
  expect(refusal(nowhere) == "the tune cache '" + nowhere + "' cannot be written: No such file or directory",
         "where nothing can be written a session says so when it starts");
  FoundTiles process;
  Tuning tuning(process, folder / "empty");
  write(folder / "empty", "Chapter 2\n");
  try {
    keep(tuning, "a", "tile");
    expect(false, "a file that has become another's is not overwritten");
  } catch (const cks::Error&) {
  }
  expect(read(folder / "empty") == "Chapter 2\n" && tuning.find("a") == "tile", "it stays, and the process knows");
  expect(folder.files() == 3, "no temporary file is left");
}

void test_processes_that_write_at_once_lose_nothing() {
  constexpr int kProcesses = 4, kProblems = 50;
  const Folder folder;
  for (int process = 0; process < kProcesses; ++process) {
    if (fork() != 0) continue;
    FoundTiles found;
    Tuning tuning(found, folder / "cache");
    for (int i = 0; i < kProblems; ++i)
      keep(tuning, "process " + std::to_string(process) + " problem " + std::to_string(i), "tile " + std::to_string(i));
    _exit(0);
  }
  for (int process = 0, status = 0; process < kProcesses; ++process) {
    wait(&status);
    expect(status == 0, "a process ended well");
  }
  FoundTiles found;
  Tuning tuning(found, folder / "cache");
  for (int process = 0; process < kProcesses; ++process) {
    for (int i = 0; i < kProblems; ++i) {
      expect(tuning.find("process " + std::to_string(process) + " problem " + std::to_string(i)) ==
                 "tile " + std::to_string(i),
             "every answer of every process is there");
    }
  }
  expect(folder.files() == 1, "no temporary file is left");
}

}  // namespace

int main() {
  test_sessions_of_a_process_share_what_they_find();
  test_a_file_carries_it_to_another_process();
  test_a_session_without_a_file_does_not_keep_it_from_one_with();
  test_a_link_stays_one();
  test_what_others_wrote_stays();
  test_answers_of_another_version_do_not_count();
  test_damaged_lines_count_for_nothing();
  test_files_that_are_something_else_are_refused_and_stay();
  test_processes_that_write_at_once_lose_nothing();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}
