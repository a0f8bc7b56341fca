#!/bin/sh
# Runs a command with a fresh bpffs at /sys/fs/bpf; meant for a mount namespace of its own (unshare --mount).
set -eu
mount -t bpf bpf /sys/fs/bpf
exec "$@"
