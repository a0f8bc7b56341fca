# One image, three commands: `sixgate operator`, `sixgate agent`, and the command line.
#
#   buildah bud -t sixgate .                         or docker build, or podman build
#
# Build arguments: BASE, a Debian bookworm; VERSION and REVISION for the labels; PIP_CERT, a CA file of a package mirror.
ARG BASE=docker.io/library/debian:bookworm-slim

# The BPF objects, by one pinned compiler: their digests are what NodeConfigs name.
FROM ${BASE} AS bpf
ARG CLANG=14
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
      clang-${CLANG} llvm-${CLANG} libc6-dev libbpf-dev linux-libc-dev python3 \
 && ln -s /usr/bin/clang-${CLANG} /usr/local/bin/clang \
 && ln -s /usr/bin/llvm-strip-${CLANG} /usr/local/bin/llvm-strip
COPY tools/build_bpf.py /src/tools/
COPY bpf_src /src/bpf_src
RUN python3 /src/tools/build_bpf.py --out /out && rm -rf /out/.cache

# The Python packages of the lock file, every one by its hash, without what only builds, tests or describes them.
FROM ${BASE} AS python
ARG PIP_CERT
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
      ca-certificates python3 python3-venv
COPY requirements.lock /src/
RUN python3 -m venv /opt/sixgate \
 && /opt/sixgate/bin/python -m pip install -q --disable-pip-version-check --no-input --no-compile --require-hashes \
      -r /src/requirements.lock
COPY operator/sixgate /opt/sixgate/lib/python3.11/site-packages/sixgate
COPY tools/image_python.py /src/tools/
RUN /opt/sixgate/bin/python /src/tools/image_python.py

FROM ${BASE}
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ca-certificates python3 libbpf1 unbound python3-unbound dns-root-data \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /var/lib/unbound/* \
 && find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} + \
 && groupadd --gid 65532 sixgate && useradd --uid 65532 --gid 65532 --no-create-home --home-dir / --shell /usr/sbin/nologin sixgate
COPY --from=python /opt/sixgate /opt/sixgate
COPY --from=bpf /out /usr/lib/sixgate/bpf
COPY LICENSE /usr/share/doc/sixgate/
COPY tools/sbom.py /usr/share/sixgate/
# Here and not above: a layer is made anew when an argument before it changes.
ARG VERSION=0.0.0
ARG REVISION=unknown
# The list of what is inside, made of what is inside; `cat /usr/share/sixgate/sbom.cdx.json`.
RUN ln -s /opt/sixgate/bin/sixgate /usr/local/bin/sixgate \
 && SOURCE_DATE_EPOCH=0 /opt/sixgate/bin/python -B /usr/share/sixgate/sbom.py ${VERSION} >/usr/share/sixgate/sbom.cdx.json
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2
# The operator and the tests need no more; the agent's pod says runAsUser 0 and which capabilities.
USER 65532:65532
ENTRYPOINT ["/opt/sixgate/bin/sixgate"]
CMD ["--help"]
LABEL org.opencontainers.image.title="sixgate" \
      org.opencontainers.image.description="The gateway for IPv6-first Kubernetes: NAT46/64, egress, load balancing and BIG TCP in BPF" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      io.sixgate.bpf.manifest="/usr/lib/sixgate/bpf/manifest.json" \
      io.sixgate.sbom="/usr/share/sixgate/sbom.cdx.json"
