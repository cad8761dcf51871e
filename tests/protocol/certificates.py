"""Certificates for tests of TLS, written by the machine's own openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from peermerge.protocol.tls import Tls


def self_signed(folder: Path, name: str) -> Tls:
    """Return a certificate for 127.0.0.1 that is its own root, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("this machine has no openssl")
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command = ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return Tls(chain.read_bytes(), key.read_bytes(), chain.read_bytes())
