"""A team's store for trying: MLflow's server on a private PostgreSQL, behind a password.

All of it is in one folder: postgres/ (the cluster), artifacts/, basic_auth.ini (the password), the
logs. PostgreSQL listens on no port, only on a socket that its user alone can reach.
"""

import configparser
import contextlib
import fcntl
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
from collections.abc import Iterator
from pathlib import Path

USER = "admin"
_MOST_START_SECONDS = 300


class ServerError(RuntimeError):
    """A server could not be started; the message says which, why and where its log is."""


@contextlib.contextmanager
def serve(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    """Run both servers until the block ends; a folder used before goes on with what it has.

    Yield MLflow's process when it answers at http://127.0.0.1:`port`; basic_auth.ini then has the
    password of USER. ServerError where something is missing or a server does not start.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(
                f"Another server runs on {folder}: stop it or take another."
            ) from None
        with _postgres(folder) as uri, _mlflow(folder, port, uri) as process:
            yield process


def programs() -> Path:
    """Return the folder with initdb and pg_ctl, which Debian keeps off the PATH; the newest one.

    ServerError where there is none.
    """
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        folders.append(Path(said.stdout.strip()))
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise ServerError("PostgreSQL is not installed. Debian and Ubuntu: apt install postgresql.")


def password(folder: Path) -> str:
    """Return the password of USER, as it was made on the folder's first use."""
    return _settings(folder)["admin_password"]


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL and yield the URI of its database."""
    data, bindir, log = folder / "postgres", programs(), folder / "postgres.log"
    # PostgreSQL refuses root: its processes are then another user's.
    user = _ordinary_user() if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="agegender-") as door:  # A socket's path is short.
        if user:
            folder.chmod(0o711)
            data.mkdir(exist_ok=True)
            log.touch()
            for path in (data, log, door):
                shutil.chown(path, user.pw_name, user.pw_gid)

        def run(program, *arguments, check=True):
            done = subprocess.run(
                [bindir / program, "--pgdata", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
                **{"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {},
            )
            if check and done.returncode:
                raise ServerError(
                    f"{program} failed"
                    f"{f' as {user.pw_name}, who must be able to enter {folder}' if user else ''}: "
                    f"{' '.join(done.stderr.split())} {_end_of(log)}"
                )

        if not (data / "PG_VERSION").exists():
            flags = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale"]
            run("initdb", *flags)
        # Left by a process that was killed: nobody else has the folder's lock.
        run("pg_ctl", "stop", "--mode=fast", check=False)
        options = f"-c listen_addresses='' -c unix_socket_directories='{door}'"
        run("pg_ctl", "start", f"--log={log}", f"--options={options}")
        try:
            yield f"postgresql://{USER}@/postgres?host={door}"
        finally:
            run("pg_ctl", "stop", "--mode=fast")


def _ordinary_user() -> pwd.struct_passwd:
    """Return whom root leaves PostgreSQL to: Debian's user for it, else nobody."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextlib.contextmanager
def _mlflow(folder: Path, port: int, uri: str) -> Iterator[subprocess.Popen]:
    log, url = folder / "mlflow.log", f"http://127.0.0.1:{port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"Port {port} cannot be had ({error}): set PORT= to another."
            ) from None
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _settings(folder, uri)["secret_key"],
        # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(folder / "artifacts")]
    with log.open("a") as file:
        process = subprocess.Popen(
            # A session of its own: Ctrl-C ends PostgreSQL after MLflow, not both at once.
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, url, log)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + _MOST_START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"mlflow server did not start. {_end_of(log)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def _settings(folder: Path, uri: str = "") -> configparser.SectionProxy:
    """Return what basic_auth.ini says, after making it where there is none, for its owner alone.

    uri: of the database, whose socket is another at every start.
    """
    path, parser = folder / "basic_auth.ini", configparser.ConfigParser(interpolation=None)
    parser.read(path)
    if not parser.has_section("mlflow"):
        parser["mlflow"] = {
            "admin_username": USER,
            "admin_password": secrets.token_urlsafe(),
            "secret_key": secrets.token_urlsafe(),
            "default_permission": "READ",
            # Checking a password is slow on purpose: once a minute is enough.
            "auth_cache_ttl_seconds": "60",
        }
    if uri:
        parser["mlflow"]["database_uri"] = uri
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            parser.write(file)
    return parser["mlflow"]


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"{lines[-1] if lines else ''} The log is {log}."
