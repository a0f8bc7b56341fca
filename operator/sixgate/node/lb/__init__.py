"""The balancer's control plane on a node: from `balancers` of a NodeConfig and the state of backends to `sg_lb_*`.

layout    bytes of keys and values
slots     how a table changes, slot by slot
numbers   ids of backends, tables and counters
entries   what stands in the maps for one balancer
want      which backends a balancer uses just now
running   what is in the kernel, read back after a restart
env       what a balancer must know of its node
mirror    the copy of the maps that is held here, and the only place that writes them
draft     what is to be written for a balancer
engine    all of it
"""
