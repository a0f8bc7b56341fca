#!/usr/bin/env python3
"""A chained CNI plugin: pods of the namespace `v6only` lose their IPv4 addresses and routes before they start."""

import json
import os
import subprocess
import sys
from typing import Any


def main() -> int:
    config: dict[str, Any] = json.load(sys.stdin)
    if os.environ["CNI_COMMAND"] == "VERSION":
        print(json.dumps({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}))
        return 0
    result: dict[str, Any] = config.get("prevResult") or {}
    if os.environ["CNI_COMMAND"] != "ADD":
        return 0
    arguments = dict(part.split("=", 1) for part in os.environ.get("CNI_ARGS", "").split(";") if "=" in part)
    if arguments.get("K8S_POD_NAMESPACE") == config["namespace"]:
        device = os.environ["CNI_IFNAME"]
        enter = ["nsenter", f"--net={os.environ['CNI_NETNS']}", "--", "ip", "-4"]
        subprocess.run([*enter, "address", "flush", "dev", device], check=True)
        subprocess.run([*enter, "route", "flush", "table", "main"], check=True)
        result["ips"] = [item for item in result.get("ips", []) if ":" in item["address"]]
        result["routes"] = [item for item in result.get("routes", []) if ":" in item["dst"]]
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
