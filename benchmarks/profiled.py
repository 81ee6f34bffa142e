"""What runs on the GPU while something runs, as CUPTI has it."""

from collections.abc import Callable

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def device_events(run: Callable[[], object]) -> list[tuple[str, float, float]]:
    """Kernels, copies and fills in the order in which they begin: name, and microseconds of begin and end.

    Args:
        run: waits until they have ended.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
    found = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA
    ]
    return sorted(found, key=lambda event: event[1])
