// Windows through a layer, and the next layer read at the same time.
#pragma once

#include <functional>

#include "miq/base/thread_pool.h"
#include "miq/model/device.h"
#include "miq/model/forward.h"

namespace miq {

// Calls window(0) … window(count - 1), and load() beside them. On the processor each is a unit of its own. A device gets its windows from one
// thread, in order: it is busy with one, and the next one's operations wait in its queue. So where there is only one thread, the layer is
// loaded while the device works off what is queued.
inline void beside(const ForwardPass& forward, ThreadPool& pool, std::int64_t count, const std::function<void(std::int64_t window)>& window,
                   const std::function<void()>& load = {}) {
  if (!forward.device_form()) {
    pool.for_each(count + 1, [&](std::int64_t unit) {
      if (unit > 0) window(unit - 1);
      if (unit == 0 && load) load();
    });
    return;
  }
  pool.for_each(2, [&](std::int64_t unit) {
    if (unit == 1 && load) load();
    for (std::int64_t i = 0; unit == 0 && i < count; ++i) window(i);
  });
  // Else the host would run ahead and layers would pile up in the device's memory. What comes next is there already.
  synchronize(forward.device());
}

}  // namespace miq
