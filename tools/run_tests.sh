#!/bin/sh
# Everything that must hold before a change goes in. The last line of output is pytest's own.
#
#   tools/run_tests.sh [lint | e2e] [PYTEST ARGUMENTS ...]
#
# `lint` stops after the lints; `e2e` runs only the tests against a real API server, which take minutes.
# Otherwise: runs every lint, then every tier of tests that this machine can run in one pytest call, and says of each tier that it cannot
# run why not. Exit code 0 where all lints and all tests that ran passed. Environment: JOBS, parallel workers (default: cores).
set -u
cd "$(dirname "$0")/.."
BIN=$PWD/.venv/bin
JOBS=${JOBS:-$(nproc)}
failed=

say() {
	printf '== %s\n' "$*"
}

# step NAME COMMAND...: silent where it succeeds, its whole output where it fails.
step() {
	name=$1
	shift
	if output=$("$@" 2>&1 </dev/null); then
		say "$name: ok"
	else
		say "$name: FAILED"
		printf '%s\n' "$output"
		failed="$failed $name"
	fi
}

# Paths that `make generate` writes.
generated_state() {
	find crds charts docs operator/sixgate -type f ! -name '*.pyc' -exec sha256sum {} + | sort -k2
}

check_generated() {
	generated_state >build/generated.before
	make --no-print-directory generate || return 1
	generated_state >build/generated.after
	if ! diff build/generated.before build/generated.after; then
		echo "These files differ from what \`make generate\` writes; run it and commit the result."
		return 1
	fi
}

check_c_format() {
	git ls-files -z '*.c' '*.h' | xargs -0 -r clang-format --dry-run -Werror
}

lint() {
	step "ruff check" "$BIN/ruff" check .
	step "ruff format" "$BIN/ruff" format --check .
	step "mypy" "$BIN/mypy" -p sixgate -p e2e -p bench -p tools
	step "import-linter" "$BIN/lint-imports" --no-cache
	step "clang-format" check_c_format
	step "generated files" check_generated
	step "docs" make --no-print-directory docs
}

# Why this machine cannot run tests that load BPF programs; empty where it can.
bpf_obstacle() {
	if [ "$(id -u)" != 0 ]; then
		echo "not root"
	elif ! bpftool prog list >/dev/null 2>&1; then
		echo "the bpf system call is not permitted: $(bpftool prog list 2>&1 | head -1)"
	fi
}

# Why this machine cannot make network namespaces.
netns_obstacle() {
	if [ "$(id -u)" != 0 ]; then
		echo "not root"
	elif ! unshare --net --mount true 2>/dev/null; then
		echo "network namespaces are not permitted: $(unshare --net --mount true 2>&1 | head -1)"
	elif ! unshare --net ip link add probe0 type veth peer name probe1 2>/dev/null; then
		echo "the kernel makes no veth devices: $(unshare --net ip link add probe0 type veth peer name probe1 2>&1 | head -1)"
	fi
}

# Why this machine cannot run tests against a real API server. Builds it where that has not been done: once per version.
apiserver_obstacle() {
	if [ -n "${KUBEBUILDER_ASSETS:-}" ] || ls "$HOME"/.cache/sixgate-e2e/k8s-*/kube-apiserver >/dev/null 2>&1; then
		return
	fi
	if ! command -v go >/dev/null; then
		echo "no kube-apiserver, and no Go to build it with; set KUBEBUILDER_ASSETS to a directory that holds it, etcd and kubectl"
		return
	fi
	say "building kube-apiserver, once; about six minutes" >&2
	"$BIN/python" -m e2e.apiserver.binaries >build/apiserver.log 2>&1 || echo "kube-apiserver cannot be built: $(tail -1 build/apiserver.log)"
}

tier() {
	if [ ! -d "$1" ] || [ -z "$(find "$1" -name 'test_*.py')" ]; then
		return
	fi
	if [ -n "$2" ]; then
		say "tier $1 cannot run on this machine: $2"
	else
		tiers="$tiers $1"
	fi
}

tools/bootstrap.sh || exit 1
PATH=$PATH:/usr/sbin:/sbin
step "build" "$BIN/python" tools/build_bpf.py
if [ "${1:-}" = e2e ]; then
	shift
	obstacle=$(apiserver_obstacle)
	if [ -n "$obstacle" ]; then
		say "tier tests/e2e cannot run on this machine: $obstacle"
		exit 1
	fi
	exec "$BIN/python" -m pytest -q tests/e2e "$@"
fi
lint
if [ "${1:-}" = lint ]; then
	[ -z "$failed" ]
	exit
fi
tiers=
tier tests/unit ""
tier tests/rfc ""
tier tests/chart ""
tier tests/docs ""
tier tests/bpf "$(bpf_obstacle)"
obstacle=$(netns_obstacle)
tier tests/dns64 "$obstacle"
tier tests/netns "${obstacle:-$(bpf_obstacle)}"
say "tests:$tiers, $JOBS at a time"
[ -z "$failed" ] || say "failed before the tests:$failed"
# Where no bpffs is mounted, as in a container, the tests get one that nobody else sees and that ends with them.
private=
if [ -z "$obstacle" ] && [ "$(stat -f -c %T /sys/fs/bpf)" != bpf_fs ]; then
	private='unshare --mount tools/with_bpffs.sh'
fi
# shellcheck disable=SC2086  # lists of words
$private "$BIN/python" -m pytest -q -n "$JOBS" --dist loadfile $tiers "$@"
status=$?
# Real API servers one at a time: each wants a core, and what is tested is how soon things happen.
obstacle=$(apiserver_obstacle)
if [ -n "$obstacle" ]; then
	say "tier tests/e2e cannot run on this machine: $obstacle"
else
	say "tests: tests/e2e"
	"$BIN/python" -m pytest -q tests/e2e "$@" || status=1
fi
[ -z "$failed" ] || exit 1
exit $status
