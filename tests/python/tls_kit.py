"""A certificate for localhost, made on the spot."""

import shutil
import ssl
import subprocess

import pytest


def make_contexts(folder):
    """(server context, client context that trusts only it). Skips where there is no openssl(1)."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl(1) is needed to make a certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=cert)
    return server, client
