"""A container without Docker: a process in a private folder that has /app and /data."""

from collections.abc import Mapping
from composefile import Image
from composefile import Service
from contextlib import suppress
from pathlib import Path
from places import replaced
from subprocess import Popen
from subprocess import TimeoutExpired
from urllib.request import urlopen
import os
import shutil
import subprocess
import sys


#: Seconds: Zope starts in ten of them, and a busy machine is given more.
TIMEOUT = 300.0

#: How often a container may end by itself: more than it is killed or told to leave here.
MOST_ENDS = 10

#: What stands for /app in the image, without the files that the Dockerfile adds.
SKELETON = Path(__file__).parent / "app"


class Container:
    """A replica of a service: `start` it, `signal` it, `stop` it; `tend` starts it again.

    What the container knows by a name or a path of Docker's is in `places`, by the text that
    docker-compose.yml has for it.
    """

    def __init__(
        self, service: Service, image: Image, folder: Path, places: Mapping[str, str]
    ) -> None:
        self.name = folder.name
        self.log = folder / "log"
        #: How often it has ended without being told so by `stop`, and how it did the last time.
        self.ends = 0
        self.exit_code: int | None = None
        self.process: Popen[bytes] | None = None
        self._service = service
        self._app, self._data = folder / "app", folder / "data"
        self._places = {**places, "/app": str(self._app), "/data": str(self._data)}
        self._command = [self._local(word) for word in [*image.entrypoint, *service.command]]
        self._environ = {key: self._local(text) for key, text in service.environ.items()}
        self._environ |= {key: os.environ[key] for key in ("HOME", "PATH") if key in os.environ}
        self._wanted = False
        self._data.mkdir(parents=True)
        shutil.copytree(SKELETON, self._app)
        for target, source in image.files.items():
            path = Path(self._local(target))
            path.parent.mkdir(exist_ok=True)
            shutil.copy(source, path)
        for path in [
            *self._app.rglob("*.conf"),
            *self._app.rglob("*.ini"),
            *self._app.glob("*.sh"),
        ]:
            path.write_text(self._local(path.read_text(encoding="utf-8")), encoding="utf-8")
        (self._app / "bin").symlink_to(Path(sys.executable).parent)

    def add(self, path: str, text: str) -> None:
        """Write a file into /app."""
        target = self._app / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start the process; do not wait for it."""
        self._wanted = True
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for this program, which then ends all.
            self.process = Popen(
                self._command,
                env=self._environ,
                cwd=self._app,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self) -> str:
        """Run the command to its end, and return what it prints."""
        return self._run(self._command, self._app)

    def execute(self, *command: str) -> str:
        """Run another command beside the first one, and return what it prints."""
        return self._run([str(self._app / command[0]), *command[1:]], self._data)

    def healthy(self) -> bool:
        """Return whether its health check succeeds."""
        with suppress(OSError), urlopen(self._local(self._service.probe), timeout=5) as answer:
            return answer.status == 200
        return False

    def signal(self, number: int) -> None:
        """Send a signal to the process, as `docker compose exec … kill` does."""
        self.process.send_signal(number)

    def ask_to_end(self) -> None:
        """Send `stop_signal`, and do not wait; from now on it is not started again."""
        self._wanted = False
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self._service.stop_signal)

    def stop(self) -> None:
        """Send `stop_signal`, wait, and kill the process after `stop_grace_period`."""
        self.ask_to_end()
        if self.process is None:
            return
        try:
            self.process.wait(self._service.grace)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait(TIMEOUT)

    def tend(self) -> None:
        """Start the process again if it has ended, and `stop` has not ended it."""
        if self._wanted and self.process.poll() is not None:
            self.ends += 1
            self.exit_code = self.process.returncode
            if not self._service.restarts or self.ends > MOST_ENDS:
                raise RuntimeError(f"{self.name} has ended, and stays so; see {self.log}")
            self.start()

    def _run(self, command: list[str], folder: Path) -> str:
        done = subprocess.run(
            command,
            env=self._environ,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _local(self, text: str) -> str:
        return replaced(text, self._places)
