#!/bin/sh
# Installs what sixgate needs to be built, tested and shown: Debian packages (as root, and only those that are missing) and
# the Python packages of requirements-dev.lock in .venv. Does nothing, quickly, when all of it is there.
#
#   tools/bootstrap.sh [--bench | --cluster]   --bench: also the peers that benchmarks compare with
#                                              --cluster: also what real Kubernetes nodes and images are made of
#
# Needs Debian 12 or later (or a distribution with the same package names) and python3 >= 3.11. Environment: VENV, the
# virtual environment to make (default .venv); PYTHON, the interpreter to make it with (default python3).
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
LOCK=requirements-dev.lock

# What must be there, and the package that brings it. A file, where there is no command.
NEEDS='
clang clang
llvm-strip llvm
clang-format clang-format
/usr/include/stdio.h libc6-dev
/usr/include/bpf/bpf_helpers.h libbpf-dev
bpftool bpftool
ip iproute2
tc iproute2
ss iproute2
nsenter util-linux
flock util-linux
ethtool ethtool
curl curl
nft nftables
iperf3 iperf3
ping iputils-ping
traceroute traceroute
tcpdump tcpdump
git git
zsh zsh
fish fish
setpriv util-linux
unbound unbound
unbound-checkconf unbound
/usr/lib/python3/dist-packages/unboundmodule.py python3-unbound
prometheus prometheus
/usr/share/dns/root.key dns-root-data
/etc/ssl/certs/ca-certificates.crt ca-certificates
'
if [ "${1:-}" = --bench ]; then
	NEEDS="$NEEDS
tayga tayga
dnsperf dnsperf"
fi
if [ "${1:-}" = --cluster ]; then
	NEEDS="$NEEDS
containerd containerd
runc runc
/usr/lib/cni/bridge containernetworking-plugins
buildah buildah
mmdebstrap mmdebstrap"
fi
PATH=$PATH:/usr/sbin:/sbin

have() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

missing_packages() {
	echo "$NEEDS" | while read -r thing package; do
		[ -z "$thing" ] || have "$thing" || echo "$package"
	done
	# Debian keeps the part of venv that makes environments in a package of its own.
	"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "bootstrap: these Debian packages are needed and there is no apt-get to install them: $1" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "bootstrap: these packages are needed, and only root can install them; run as root: apt-get install $1" >&2
		exit 1
	fi
	echo "bootstrap: installing Debian packages: $1"
	export DEBIAN_FRONTEND=noninteractive
	mkdir -p build
	# Debian starts a service as soon as it is installed; a resolver at this machine's port 53 is not what is wanted.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
	fi
	# shellcheck disable=SC2086  # a list of words
	if ! {
		apt-get update -q &&
			apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 $1
	} </dev/null >build/bootstrap.log 2>&1; then
		echo "bootstrap: apt-get failed, its last words (all of them are in build/bootstrap.log):" >&2
		tail -n 15 build/bootstrap.log >&2
		exit 1
	fi
}

if ! command -v "$PYTHON" >/dev/null 2>&1; then
	echo "bootstrap: $PYTHON is needed (version 3.11 or later) and is not in PATH" >&2
	exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "bootstrap: Python 3.11 or later is needed, $PYTHON is $("$PYTHON" -V | cut -d' ' -f2); set PYTHON=..." >&2
	exit 1
fi
packages=$(missing_packages | sort -u | tr '\n' ' ')
[ -z "$packages" ] || install_packages "$packages"
packages=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$packages" ]; then
	echo "bootstrap: installed, and still not usable: $packages" >&2
	exit 1
fi

mkdir -p build
# One bootstrap at a time: a second caller waits and then finds everything done.
exec 9>build/.bootstrap.lock
flock 9
stamp=$(sha256sum "$LOCK" | cut -d' ' -f1)
if [ "$(cat "$VENV/.lock-sha256" 2>/dev/null)" != "$stamp" ]; then
	echo "bootstrap: making $VENV from $LOCK"
	rm -f "$VENV/.lock-sha256"
	"$PYTHON" -m venv --clear "$VENV"
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$LOCK"
	echo "$stamp" >"$VENV/.lock-sha256"
fi
# The project itself is used from its source tree: a path file and a command, as an editable installation would make.
site=$(echo "$VENV"/lib/python3.*/site-packages)
[ "$(cat "$site/sixgate.pth" 2>/dev/null)" = "$PWD/operator" ] || echo "$PWD/operator" >"$site/sixgate.pth"
# command_of NAME FUNCTION: a program that calls a function of sixgate.cli, as pip would make it.
command_of() {
	[ -x "$VENV/bin/$1" ] || {
		{
			echo "#!$(cd "$VENV/bin" && pwd)/python"
			echo 'import sys'
			echo
			echo "from sixgate.cli import $2"
			echo
			echo "sys.exit($2())"
		} >"$VENV/bin/$1"
		chmod +x "$VENV/bin/$1"
	}
}
command_of sixgate main
command_of kubectl-sixgate kubectl
command_of kubectl_complete-sixgate kubectl_complete
