"""The gRPC shell: bytes to packets and back. What they mean is decided in `core/`."""
