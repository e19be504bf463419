"""What the figures were measured on."""

import os


def cpu_name() -> str:
    """Returns the processor by name, whether it has AVX-512, and its usable cores."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if "model name" in line]
        file.seek(0)
        vectors = " with AVX-512" if "avx512f" in file.read() else ""
    return f"{names[0]}{vectors}, {len(os.sched_getaffinity(0))} cores"
