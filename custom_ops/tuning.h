// Tiles that were found by measurement: kept for the process, and in a file where a session asks for one.
#pragma once
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace cks::ort {

// By problem, as a line of text.
using Tiles = std::map<std::string, std::string>;

// What the sessions of a process have found.
struct FoundTiles {
  std::mutex mutex;
  Tiles tiles;
};

// What one session knows, which is what all of them know, and where it writes it.
class Tuning {
 public:
  // Reads the file, if it is there; an empty name is for no file. Throws Error where it is another's file, or cannot be
  // read or written. Lines that make no sense count for nothing.
  Tuning(FoundTiles& found, const std::string& file);

  // To be held around find, a search and keep: of two runs that meet a problem at once one searches, and no other
  // search disturbs its timing.
  [[nodiscard]] std::unique_lock<std::mutex> turn() const { return std::unique_lock(found_.mutex); }
  std::optional<std::string> find(const std::string& problem) const;
  // The file gets it too, and keeps what other processes have written meanwhile. Throws Error where that fails.
  void keep(const std::string& problem, const std::string& tile);

 private:
  FoundTiles& found_;
  const std::string file_;  // absolute, and no link: it is replaced
  Tiles in_file_;           // as far as this process knows
};

}  // namespace cks::ort
