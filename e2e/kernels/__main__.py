"""`make kernels`: every kernel of images.SERIES, or those named; a table, and exit code 1 where something is wrong."""

from __future__ import annotations

import argparse
import sys

from e2e.kernels.images import SERIES, ImageError
from e2e.kernels.run import Report, try_kernel


def show(report: Report) -> bool:
    """Prints what a kernel said; False where something is wrong."""
    print(f"\nLinux {report.release}")
    for name, count in sorted(report.insns.items()):
        print(f"  {name:28} {count:>9,} instructions verified at most")
    for way, translated in report.ways.items():
        print(f"  {way:8} {translated.cases - len(translated.faults)} of {translated.cases} cases right")
        for fault in translated.faults:
            print(f"           {fault}")
    for stage, text in report.errors.items():
        print(f"  {stage} failed:\n{text}")
    return not report.errors and not any(each.faults for each in report.ways.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", nargs="*", default=list(SERIES), help=f"of {', '.join(SERIES)} (default: all)")
    right = True
    for series in parser.parse_args().series:
        try:
            right &= show(try_kernel(series))
        except ImageError as error:
            print(f"\nLinux {series}: {error}")
            right = False
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
