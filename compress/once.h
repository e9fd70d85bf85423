// Work in steps that ends where memory does and is begun again: what was done is not done twice.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>

namespace miq {

// Of one piece of work after another. A step that throws has changed nothing, or goes on where it ended.
class Once {
 public:
  // Runs the steps in order. Called again after one threw it leaves out those before that one; after the last step the next call is another piece's.
  void run(std::initializer_list<std::function<void()>> steps) {
    for (; done_ < steps.size(); ++done_) steps.begin()[done_]();
    done_ = 0;
  }

 private:
  std::size_t done_ = 0;
};

}  // namespace miq
