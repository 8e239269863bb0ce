"""A team's store to test against: MLflow's server on a private PostgreSQL, behind a password.

All of it is in one folder. PostgreSQL listens on no port, only on a socket that its user alone can
reach, and runs as an ordinary user, since it refuses root.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

USER = "admin"
MOST_START_SECONDS = 300


def programs() -> Path | None:
    """Return the folder with initdb and pg_ctl, which Debian keeps off the PATH; the newest one."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + MOST_START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


class TeamServer:
    """Both servers on a folder; what they keep in it outlives them.

    environment: the variables with which MLflow's clients reach it.
    """

    def __init__(self, folder: Path):
        self.folder, self.data, self.log = folder, folder / "postgres", folder / "postgres.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.secret = secrets.token_urlsafe()
        self.environment = {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe(),
        }
        names = [user.pw_name for user in pwd.getpwall()]
        user = "postgres" if "postgres" in names else "nobody"
        self.run_as = {}
        if os.geteuid() == 0:
            self.run_as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        self.socket_folder = Path(tempfile.mkdtemp(prefix="agegender-"))  # Its path must be short.
        folder.chmod(0o711)
        self.data.mkdir()
        self.log.touch()
        if self.run_as:
            for path in (self.data, self.log, self.socket_folder):
                shutil.chown(path, user)
        self.postgres(
            "initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale"
        )

    def postgres(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on the folder."""
        subprocess.run(
            [programs() / program, "--pgdata", self.data, *arguments],
            cwd="/",
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **self.run_as,
        )

    def start(self) -> None:
        """Start both and wait until MLflow answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.socket_folder}'"
        self.postgres("pg_ctl", "start", f"--log={self.log}", f"--options={options}")
        uri = f"postgresql://{USER}@/postgres?host={self.socket_folder}"
        # Checking a password is slow on purpose.
        (self.folder / "basic_auth.ini").write_text(
            f"[mlflow]\nadmin_username = {USER}\n"
            f"admin_password = {self.environment['MLFLOW_TRACKING_PASSWORD']}\n"
            f"database_uri = {uri}\ndefault_permission = READ\nauth_cache_ttl_seconds = 60\n"
        )
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        surroundings = {name: v for name, v in os.environ.items() if name[:15] != "MLFLOW_TRACKING"}
        surroundings |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "basic_auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secret,
            # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self.folder / "mlflow.log").open("a") as log:
            self.mlflow = subprocess.Popen(
                command, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(f"{self.url}/health", self.mlflow, self.folder / "mlflow.log")

    def stop(self) -> None:
        """End both in order."""
        os.killpg(self.mlflow.pid, signal.SIGTERM)
        self.mlflow.wait(60)
        self.postgres("pg_ctl", "stop", "--mode=fast")

    def cut_power(self) -> None:
        """Kill both."""
        os.kill(self.postmaster(), signal.SIGKILL)
        os.killpg(self.mlflow.pid, signal.SIGKILL)
        self.mlflow.wait()

    def postmaster(self) -> int:
        """Return the id of PostgreSQL's first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])
