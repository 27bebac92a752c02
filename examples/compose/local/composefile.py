"""What docker-compose.yml and the Dockerfile say, as Docker Compose would read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
import json
import re
import signal
import yaml


#: ${NAME}, ${NAME:-default}, and $$ for a $ of its own.
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Service:
    """A service of docker-compose.yml, as far as a run without Docker needs it."""

    name: str
    command: list[str]
    environ: dict[str, str]
    replicas: int
    restarts: bool
    #: What asks it to end, and the seconds after which it is killed.
    stop_signal: int
    grace: float
    #: What answers with 200 when the container is healthy.
    probe: str


@dataclass(frozen=True)
class Image:
    """What the Dockerfile adds to the image plone-backend."""

    entrypoint: list[str]
    #: Files of the checkout, by the path that they have in the image.
    files: dict[str, Path]


def read_services(folder: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services that these variables choose, by name."""
    text = (folder / "docker-compose.yml").read_text(encoding="utf-8")
    services = yaml.safe_load(_interpolate(text, variables))["services"]
    profiles = {variables["DATABASE"], "setup"}
    return {
        name: _service(folder, name, values)
        for name, values in services.items()
        if "profiles" not in values or profiles & set(values["profiles"])
    }


def read_image(dockerfile: Path, context: Path) -> Image:
    """Return the entry point, and the files that go into the folder of the instance."""
    text = dockerfile.read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?:--\S+ )*(\S+) (/app/\S+)$", text, re.MULTILINE)
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    return Image(json.loads(entrypoint), {target: context / source for source, target in copied})


def _interpolate(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return variables.get(match[1]) or match[2] if match[1] else "$"

    return VARIABLE.sub(value, text)


def _service(folder: Path, name: str, values: dict[str, Any]) -> Service:
    environ = {**_env_file(folder, values), **values.get("environment", {})}
    test = " ".join(values.get("healthcheck", {}).get("test", []))
    return Service(
        name=name,
        command=values.get("command", []),
        environ={key: str(value) for key, value in environ.items()},
        replicas=values.get("deploy", {}).get("replicas", 1),
        restarts=values.get("restart") == "unless-stopped",
        stop_signal=signal.Signals[values.get("stop_signal", "SIGTERM")],
        grace=float(values.get("stop_grace_period", "10s").removesuffix("s")),
        probe=next(iter(re.findall(r"http://\S+", test)), ""),
    )


def _env_file(folder: Path, values: dict[str, Any]) -> dict[str, str]:
    if "env_file" not in values:
        return {}
    lines = (folder / values["env_file"]).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
