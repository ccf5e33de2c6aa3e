"""The Container Runtime Interface: what a kubelet and crictl speak to Orlop."""
