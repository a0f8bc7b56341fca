"""`make e2e`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.harness import print_report, write_json
from e2e.cluster.run import Run, existing, main_failures, whole
from e2e.cluster.world import UNDER

if TYPE_CHECKING:
    from e2e.cluster.cluster import Cluster


def wait(cluster: Cluster) -> None:
    """Says how to reach the cluster, and waits for Ctrl-C."""
    where = f"KUBECONFIG={cluster.kubeconfig} nsenter --net=/run/netns/{cluster.lab.netns(UNDER)}"
    print(f"{where} {cluster.server.binaries.kubectl} get pods -A\nCtrl-C removes the cluster.", flush=True)
    with suppress(KeyboardInterrupt):
        signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser(description="Install sixgate on a real cluster and prove what it does.")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    kubeconfig = os.environ.get("KUBECONFIG")
    image = os.environ.get("IMAGE", "")
    parser.add_argument("--image", default=image, help="REPOSITORY:TAG for the cluster of $KUBECONFIG; default $IMAGE")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only steps whose name has TEXT in it"
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster running until Ctrl-C")
    args = parser.parse_args()
    if kubeconfig and ":" not in args.image:
        parser.error(f"With KUBECONFIG, IMAGE must be a REPOSITORY:TAG that it can pull, found {args.image!r}.")
    run = Run(only=tuple(args.only))
    try:
        if kubeconfig:
            existing(run, args.image)
        else:
            whole(run, wait if args.keep else None)
    finally:
        print_report(run.report)
        if args.json:
            write_json([run.report], args.json)
    return main_failures(run)


if __name__ == "__main__":
    sys.exit(main())
