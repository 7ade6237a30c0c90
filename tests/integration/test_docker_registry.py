"""The registry client and a real docker-registry: log-in, indexes, http."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from integration import engines
from tabellion.core.names import Digest, parse_reference
from tabellion.errors import AccessDeniedError, UnknownImageError
from tabellion.registry import RegistryClient

pytestmark = pytest.mark.system

# bcrypt of "only-for-tests"
PASSWORDS = "publisher:$2b$04$HI0unCyDPEristfDqnCdYejZe..4bMF9.0Npk6usfUPDahiD1yX9C\n"


async def test_a_registry_with_passwords_is_logged_in_to(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(PASSWORDS)
    auth = f"auth:\n  htpasswd: {{realm: tests, path: {tmp_path / 'htpasswd'}}}\n"
    with engines.docker_registry(tmp_path / "registry", extra=auth) as registry:
        reference = parse_reference(f"{registry.host}/app:1")
        async with RegistryClient(docker_config=tmp_path) as client:
            assert await client.speaks_http(registry.host)  # loopback, without TLS
            with pytest.raises(AccessDeniedError) as refused:
                await client.manifest(reference)
        assert "docker login" in refused.value.hint
        for secret, error in (("wrong", AccessDeniedError), ("only-for-tests", UnknownImageError)):
            encoded = base64.b64encode(f"publisher:{secret}".encode()).decode()
            config = {"auths": {registry.host: {"auth": encoded}}}
            (tmp_path / "config.json").write_text(json.dumps(config))
            async with RegistryClient(docker_config=tmp_path) as client:
                with pytest.raises(error):
                    await client.manifest(reference)


async def test_the_platforms_of_a_real_index_are_given(tmp_path: Path) -> None:
    with (
        engines.docker_registry(tmp_path / "registry") as registry,
        engines.docker_daemon(tmp_path / "dockerd") as docker,
    ):
        engines.push_image(docker, f"{registry.host}/app:1", "one")
        async with RegistryClient(docker_config=tmp_path) as client:
            image = await client.manifest(parse_reference(f"{registry.host}/app:1"))
            assert str(image.digest) == registry.digest("app", "1")
            body = registry.put_index("app", "multi", image)
            index = await client.manifest(parse_reference(f"{registry.host}/app:multi"))
            assert index.digest == Digest.of(body)
            (platform,) = index.platforms
            assert (platform.platform, platform.digest) == ("linux/amd64", image.digest)
            child = await client.manifest(parse_reference(f"{registry.host}/app@{platform.digest}"))
            assert child.data == image.data
