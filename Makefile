# Everything starts here. `make help` lists what there is; nothing has to be installed first but make, git and python3.
SHELL := /bin/sh
PY := .venv/bin/python
VECTORS ?= ../shared/nat64/siit_vectors.json
JSON ?=
NAT_TESTS = $(wildcard tests/bpf/test_nat_*.py tests/netns/test_nat*.py)
export JSON VECTORS

.DEFAULT_GOAL := help
.PHONY: help bootstrap bpf generate format lint test test-e2e e2e image kernels demo bench bench-nat64 bench-dns64 docs conformance nightly fuzz fuzz-lb clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

bootstrap: ## install what is missing: Debian packages, .venv from the lock file
	@tools/bootstrap.sh

bpf: bootstrap ## compile bpf_src to build/bpf
	@$(PY) tools/build_bpf.py

generate: bpf ## write generated files anew: layouts, CRDs, reference, chart
	@$(PY) tools/gen_layouts.py
	@$(PY) tools/gen_crds.py
	@$(PY) tools/gen_reference.py
	@$(PY) tools/gen_dashboards.py

format: bootstrap ## bring Python and C into shape
	@.venv/bin/ruff format -q .
	@.venv/bin/ruff check -q --fix .
	@clang-format -i $$(git ls-files '*.c' '*.h')

lint: bootstrap ## ruff, mypy, import-linter, clang-format, generated files up to date
	@tools/run_tests.sh lint

test: bootstrap ## lint and every tier of tests that this machine can run
	@tools/run_tests.sh

test-e2e: bootstrap ## the operator against a real API server (minutes)
	@tools/run_tests.sh e2e

e2e: bpf ## image, chart and data plane on a real three-node cluster, or on the one of KUBECONFIG; minutes, JSON=FILE
	@tools/bootstrap.sh --cluster
	@$(PY) -m e2e.cluster $(if $(JSON),--json $(JSON))

image: bpf ## build the image without a registry, by buildah on a base made of Debian packages
	@tools/bootstrap.sh --cluster
	@$(PY) -m e2e.cluster.build

kernels: bpf ## load, attach and translate on Debian's kernels 6.1 and 6.12, in QEMU without KVM (minutes)
	@command -v qemu-system-x86_64 >/dev/null || apt-get install -q -y --no-install-recommends qemu-system-x86
	@$(PY) -m e2e.kernels

demo: bpf ## real traffic through a gateway, in network namespaces; removes what it made
	@$(PY) -m e2e.demo

docs: bootstrap ## the site of docs/ into build/site, warnings are errors; nothing is fetched
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

conformance: bpf ## every RFC case and the vectors of VECTORS=FILE; rewrites docs/compliance.md
	@$(PY) -m pytest -q -n 2 --dist loadfile tests/rfc $(NAT_TESTS) --junitxml=build/rfc.xml
	@$(PY) tools/gen_compliance.py build/rfc.xml
	@$(PY) -m e2e.conformance --vectors $(VECTORS)

nightly: bpf ## a million random packets against the RFC model, in tc and through XDP; random life of stateful NAT; bent packets through the balancer; every combination of constants
	@SIXGATE_THOROUGH=1 $(PY) -m pytest -q -n 2 tests/bpf/test_load_all.py
	@$(PY) -m tests.rfc.differential --packets 1000000
	@$(PY) -m tests.rfc.differential --packets 1000000 --xdp
	@$(PY) -m tests.bpf.nat_walk --steps 1000000
	@$(PY) -m tests.bpf.lb_fuzz --packets 1000000 --nat 1000000

fuzz: bpf ## bent packets through a live gateway, everything that leaves is checked; PACKETS=N
	@$(PY) -m tests.rfc.fuzz --packets $(or $(PACKETS),10000000)

fuzz-lb: bpf ## bent packets through the balancer, by DSR and by NAT, every verdict and every packet is checked; PACKETS=N of each
	@$(PY) -m tests.bpf.lb_fuzz --packets $(or $(PACKETS),10000000) --nat $(or $(PACKETS),10000000)

bench-nat64: bpf ## figures of the translator against plain forwarding and tayga; JSON=FILE for machines
	@tools/bootstrap.sh --bench
	@$(PY) -m bench.nat64 $(if $(JSON),--json $(JSON)) --vectors $(VECTORS)

bench-%: bpf
	@$(PY) -m bench.$* $(if $(JSON),--json $(JSON))

bench-dns64: bootstrap ## figures of DNS64 against the same resolver without it; JSON=FILE for machines
	@tools/bootstrap.sh --bench
	@$(PY) -m bench.dns64 $(if $(JSON),--json $(JSON))

bench: bpf ## every benchmark; writes docs/benchmarks.md
	@tools/bootstrap.sh --bench
	@mkdir -p docs/benchmarks
	@$(PY) -m bench.all --vectors $(VECTORS) --figures docs/benchmarks
	@$(PY) -m tools.gen_benchmarks

clean: ## remove what was built, but not .venv
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
