"""`make e2e`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.harness import print_report, write_json
from e2e.cluster.run import Run, existing, main_failures, whole


def main() -> int:
    parser = argparse.ArgumentParser(description="Install sixgate on a real cluster and prove what it does.")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    kubeconfig = os.environ.get("KUBECONFIG")
    image = os.environ.get("IMAGE", "")
    parser.add_argument("--image", default=image, help="REPOSITORY:TAG for the cluster of $KUBECONFIG; default $IMAGE")
    args = parser.parse_args()
    if kubeconfig and ":" not in args.image:
        parser.error(f"With KUBECONFIG, IMAGE must be a REPOSITORY:TAG that it can pull, found {args.image!r}.")
    run = Run()
    try:
        if kubeconfig:
            existing(run, args.image)
        else:
            whole(run)
    finally:
        print_report(run.report)
        if args.json:
            write_json([run.report], args.json)
    return main_failures(run)


if __name__ == "__main__":
    sys.exit(main())
