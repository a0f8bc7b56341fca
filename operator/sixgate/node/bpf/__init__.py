"""libbpf.so.1 through ctypes: objects, maps, programs, links. The only place of sixgate that speaks bpf(2).

    manifest = load_manifest(objects_dir)
    with BpfObject.open("sg_tc", data=manifest.read("sg_tc", digest)) as obj:
        obj.set_constants({"sg_cfg": {"features": 1, "slow_dev": "sg-slow0"}}, resolve=socket.if_nametoindex)
        obj.reuse_pinned("/sys/fs/bpf/sixgate/maps")
        obj.load()
        program, table = obj.program("sg_uplink_tc"), obj.map("sg_nat")
    link = Link.tcx(program, ifindex, "ingress")
    with Map.create(table_spec.inner) as inner:          # table_spec = obj.maps["sg_nat"]
        inner.set(0, {"n_gw": 1, "gw": [{"prefix": "64:ff9b::", "prefix_len": 96}]})
        table.set(0, inner)

Errors are BpfError with the kernel's errno. Everything is found by pin, never by id: ids need SYS_ADMIN.
"""

from sixgate.node.bpf.codec import Codec, Resolve, Value, decode, encode
from sixgate.node.bpf.ctype import CType, MapSpec
from sixgate.node.bpf.info import Attached, AttachType, Hook, LinkInfo, LinkType, MapInfo, ProgInfo, query_attached
from sixgate.node.bpf.lib import possible_cpus
from sixgate.node.bpf.link import Link, XdpMode, is_gone
from sixgate.node.bpf.manifest import Manifest, load_manifest
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.mapspec import MapFlag, MapType, add_up, incompatibility
from sixgate.node.bpf.object import BpfLoadError, BpfObject, BpfPinError, ProgSpec
from sixgate.node.bpf.probe import Features, is_bpffs, missing_permission, mount_id, probe
from sixgate.node.bpf.prog import Program, ProgType, SkbContext, TestResult, TestRunFlag, XdpContext
from sixgate.node.bpf.ringbuf import RingBuffer

__all__ = [
    "AttachType",
    "Attached",
    "BpfLoadError",
    "BpfObject",
    "BpfPinError",
    "CType",
    "Codec",
    "Features",
    "Hook",
    "Link",
    "LinkInfo",
    "LinkType",
    "Manifest",
    "Map",
    "MapFlag",
    "MapInfo",
    "MapSpec",
    "MapType",
    "ProgInfo",
    "ProgSpec",
    "ProgType",
    "Program",
    "Resolve",
    "RingBuffer",
    "SkbContext",
    "TestResult",
    "TestRunFlag",
    "Value",
    "XdpContext",
    "XdpMode",
    "add_up",
    "decode",
    "encode",
    "incompatibility",
    "is_bpffs",
    "is_gone",
    "load_manifest",
    "missing_permission",
    "mount_id",
    "possible_cpus",
    "probe",
    "query_attached",
]
