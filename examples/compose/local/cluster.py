"""All processes of the example: servers, web servers and workers, in one private folder."""

from collections.abc import Callable
from composefile import read_image
from composefile import read_services
from container import Container
from container import TIMEOUT
from pathlib import Path
from ports import free_port
from ports import LOOPBACK
from servers import Postgres
from servers import Redis
from servers import ZEO
from services import Server
import secrets
import time


COMPOSE = Path(__file__).parents[1]

#: The ports that containers have inside, and the address on which they listen there.
PORT = "8080"
PROBE_PORT = "8090"
EVERYWHERE = "0.0.0.0"


class Cluster:
    """The services of docker-compose.yml that `database` chooses; `stop` ends all of them."""

    def __init__(self, folder: Path, database: str) -> None:
        self.webs: list[Container] = []
        self.workers: list[Container] = []
        #: The ports of the web servers.
        self.ports: list[int] = []
        self._folder = folder
        self._database = database
        self._services = read_services(COMPOSE, {"DATABASE": database})
        self._image = read_image(COMPOSE / "Dockerfile", COMPOSE.parents[1])
        self._servers: list[Server] = []
        self._places = {"/run/secrets": str(folder / "secrets"), EVERYWHERE: LOOPBACK}

    def start_servers(self) -> None:
        """Start Redis, and what the ZODB is on; each with a new password."""
        passwords = self._folder / "secrets"
        passwords.mkdir(mode=0o700)
        for name in ("redis-password", "postgres-password"):
            (passwords / name).write_text(secrets.token_hex(24), encoding="utf-8")
        redis = self._folder / "redis"
        self._servers = [Redis(self._services["redis"], redis, COMPOSE / "redis.conf", passwords)]
        if self._database == "zeo":
            self._servers.append(ZEO(self._folder / "zeo"))
        else:
            self._servers.append(Postgres(passwords))
        for server in self._servers:
            server.start()
            self._places |= server.places

    def run_once(self, name: str, files: dict[str, str]) -> None:
        """Run a service to its end, as `docker compose run` does, with more files in /app."""
        container = self._container(name, name, files)
        container.run()

    def start_webs(self, files: dict[str, str]) -> None:
        """Start the web servers; do not wait for them."""
        self.webs = self._start("web", files)

    def start_workers(self, files: dict[str, str]) -> None:
        """Start the workers; do not wait for them."""
        self.workers = self._start("worker", files)

    def healthy(self) -> bool:
        """Return whether all health checks succeed."""
        return all(container.healthy() for container in self._containers)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, and start what has ended meanwhile, as Docker would."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {TIMEOUT:g} s in vain: {what}")
            for container in self._containers:
                container.tend()
            time.sleep(0.1)

    def stop(self) -> None:
        """End all processes: first those that use a server, then the servers."""
        for container in self._containers:
            container.ask_to_end()
        for container in self._containers:
            container.stop()
        for server in self._servers:
            server.stop()
            if isinstance(server, Postgres):
                server.remove()

    @property
    def _containers(self) -> list[Container]:
        return [*self.webs, *self.workers]

    def _start(self, name: str, files: dict[str, str]) -> list[Container]:
        numbers = range(1, self._services[name].replicas + 1)
        made = [self._container(name, f"{name}-{number}", files) for number in numbers]
        for container in made:
            container.start()
        return made

    def _container(self, name: str, folder: str, files: dict[str, str]) -> Container:
        port = free_port()
        places = self._places | {PORT: str(port), PROBE_PORT: str(port)}
        if name == "web":
            self.ports.append(port)
        made = Container(self._services[name], self._image, self._folder / folder, places)
        for path, text in files.items():
            made.add(path, text)
        return made
