"""The balancer's control plane on a node: from `balancers` of a NodeConfig and the state of backends to `sg_lb_*`.

layout    bytes of keys and values
slots     how a table changes, slot by slot
numbers   ids of backends, tables and counters
entries   what stands in the maps for one balancer
want      which backends a balancer uses just now
running   what is in the kernel, read back after a restart
engine    all of it, and the only place that writes
"""
