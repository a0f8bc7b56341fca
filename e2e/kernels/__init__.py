"""The shipped objects on the kernels of Debian, booted in QEMU without KVM: `python -m e2e.kernels`."""
