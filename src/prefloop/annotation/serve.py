"""`prefloop annotate`: a ready queue in the browser from one command; the database is made where there is none."""

from __future__ import annotations

import errno
import signal
import socket
import sys
import webbrowser
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import sqlalchemy as sa

from prefloop.annotation.accounts import invite
from prefloop.annotation.database import Database, check_file, open_database, owned
from prefloop.annotation.imported import add_labels
from prefloop.annotation.items import NewItem, add_items, create_project, has_project, open_items
from prefloop.annotation.schema import rater
from prefloop.annotation.service import LOOPBACK, Address, Service, milliseconds
from prefloop.annotation.stream import read_project
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError
from prefloop.progress import note
from prefloop.records import Judgement

PORT = 8642
EVERYWHERE = ("0.0.0.0", "::")
LINK_HOURS = 24


@dataclass(frozen=True)
class Gathered:
    """What a new project is made of."""

    items: Sequence[NewItem]
    source: str
    """What was read, for people."""
    labels: Sequence[Judgement] = ()
    """What people said of the items elsewhere."""


@dataclass(frozen=True)
class Serving:
    """Where the server listens, and how it is reached."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None: 8642, or any free one where that is taken and `any_port` holds."""
    public_url: str | None = None
    """What browsers use, where a proxy in front speaks HTTPS, or where `host` is every address of the machine."""
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    """Plain HTTP beyond this machine."""
    browser: bool = True
    admin_link: bool = False
    """Print a new link for the first admin, who has forgotten the password."""

    @property
    def alone(self) -> bool:
        """Nobody else can reach it."""
        return self.host in LOOPBACK and self.public_url is None

    @property
    def any_port(self) -> bool:
        """Whether a free port will do: nobody gave one, and no proxy and no public name lead to one."""
        return self.port is None and self.public_url is None

    def address(self, port: int) -> Address:
        """What browsers use.

        Raises:
            ConfigError: plain HTTP beyond this machine, or a certificate without its key.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--tls-cert and --tls-key belong together: give both")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise ConfigError(f"{path} does not exist: give the certificate and its key as PEM files")
        if self.host in EVERYWHERE and self.public_url is None:
            raise ConfigError(
                f"--host {self.host} listens on every address of this machine: say by which name people reach it, "
                f"--public-url https://NAME:{port}"
            )
        if self.public_url is not None:
            return Address(self.public_url.rstrip("/"), self.insecure)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Address(f"{'https' if self.certificate else 'http'}://{host}:{port}", self.insecure)


def annotate(
    place: str | Path,
    read: Callable[[AnnotationConfig], Gathered] | None,
    config: AnnotationConfig,
    serving: Serving,
    given: Collection[str] = (),
) -> None:
    """Serve the project at a path or URL until Ctrl-C.

    Args:
        read: gives the items and says where they are from; not called for a project that there is.
        config: settings of a new project; one that there is keeps its own.
        given: the settings that somebody asked for, to say which of them do not hold.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a new project without an item.
        StoreError: the database cannot be used, or another process serves it.
    """
    listener = _listen(serving)
    port = listener.getsockname()[1]
    address = serving.address(port)
    fresh = Path(place) if "://" not in str(place) and not Path(place).exists() else None
    if "://" not in str(place):
        check_file(Path(place))
    database = open_database(place)
    try:
        with owned(database):
            writer = Writer(database.writing)
            try:
                prepare(database, writer, read, config, given)
            except BaseException:
                _leave_nothing(fresh)
                raise
            service = Service(database, writer, address, alone=serving.alone)
            _announce(service, serving, port, _admin_link(service, serving.admin_link))
            _run(service, serving, listener)
    finally:
        listener.close()
        database.close()


def _leave_nothing(fresh: Path | None) -> None:
    """No empty database stays where a project could not be made."""
    if fresh is not None:
        for path in fresh.parent.glob(f"{escape(fresh.name)}*"):
            path.unlink(missing_ok=True)


def prepare(
    database: Database,
    writer: Writer,
    read: Callable[[AnnotationConfig], Gathered] | None,
    config: AnnotationConfig,
    given: Collection[str] = (),
) -> None:
    """Set up an empty database."""
    with database.reading.connect() as connection:
        if has_project(connection):
            if differing := _differences(read_project(connection).config, config, given):
                note(f"{database.shown} has a project, whose settings hold: {differing}")
            if read is not None:
                note(f"{database.shown} has its items already: nothing is read anew")
            return
    if read is None:
        raise DataError(f"{database.shown} holds no project yet: name what is to be judged, a run folder or a file")
    found = read(config)
    if not any(new.role == "item" for new in found.items):
        raise DataError(f"{found.source} gives nothing to judge: no prompt with two different answers")
    now = milliseconds()

    def fill(connection: sa.Connection) -> tuple[int, Counter[str], int]:  # a project appears whole or not at all
        create_project(connection, config, found.source, now)
        added, labels = add_items(connection, found.items), add_labels(connection, found.labels, now)
        return added, labels, open_items(connection)

    added, labels, left = writer.run(fill)
    note(f"{added:,} items from {found.source}")
    if labels:
        said = ", ".join(f"{count:,} {what}" for what, count in sorted(labels.items()))
        note(f"verdicts that people gave elsewhere: {said}")
        if not left:
            more = f"a larger --set overlap, now {config.overlap}, and another --database"
            note(f"they are as many as the project asks for, so nothing is left to judge: {more} asks more people")


def _differences(kept: AnnotationConfig, config: AnnotationConfig, given: Collection[str]) -> str:
    """What the project has otherwise than was asked for."""
    ours, asked = kept.model_dump(mode="json"), config.model_dump(mode="json")
    return ", ".join(f"{name}={ours[name]!r}, not {asked[name]!r}" for name in given if ours[name] != asked[name])


def _listen(serving: Serving) -> socket.socket:
    """The port is taken first: nothing is prepared for a server that cannot listen.

    Raises:
        ConfigError: the port that was asked for is taken, or the host is not this machine's.
    """
    port = PORT if serving.port is None else serving.port
    try:
        return _bound(serving.host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        if not taken or not serving.any_port:
            raise ConfigError(_why_not(serving, port, error)) from error
    return _bound(serving.host, 0)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # a browser that comes before the app is up waits
    except OSError:
        listener.close()
        raise
    return listener


def _why_not(serving: Serving, port: int, error: OSError) -> str:
    place = f"cannot listen on {serving.host}, port {port} ({error.strerror})"
    if error.errno != errno.EADDRINUSE:
        return f"{place}: choose another with --host and --port"
    way = f"{place}: stop the program that has it, or give another --port"
    if serving.public_url is None:
        return f"{way}; without --port a free one is taken"
    return f"{way}, to which {serving.public_url} leads"


def _admin_link(service: Service, forgotten: bool) -> str:
    """A one-time link for the first admin; on one's own machine, for its admin at every start."""
    now = service.clock()

    def make(connection: sa.Connection) -> str | None:
        admins = sa.select(rater.c.id).where(rater.c.role == "admin", rater.c.status == "active").order_by(rater.c.id)
        admin = connection.execute(admins.add_columns(rater.c.password)).first()
        if admin is None:
            return invite(connection, "admin", now, LINK_HOURS)
        if forgotten or (service.alone and admin.password is None):
            return invite(connection, "admin", now, LINK_HOURS, rater_id=admin.id)
        return None

    token = service.writer.run(make)
    return f"{service.address.origin}/join#{token}" if token else service.address.origin


def _announce(service: Service, serving: Serving, port: int, link: str) -> None:
    first = "#" in link
    if serving.any_port and port != PORT:
        print(f"\n  Port {PORT} is taken by another program, perhaps by another project.", flush=True)
        print(f"  This project uses port {port} until it is stopped; --port chooses one that stays.", flush=True)
    print(f"\n  {service.database.shown}\n  open  {link}", flush=True)
    if first:
        print(f"        (works once, for {LINK_HOURS} hours; it makes you the project's admin)", flush=True)
    print("  stop  Ctrl-C; nothing is lost\n", flush=True)
    if serving.browser and serving.alone and sys.stdout.isatty():
        webbrowser.open(link)


def _run(service: Service, serving: Serving, listener: socket.socket) -> None:
    import uvicorn

    from prefloop.annotation.app import create_app

    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        server_header=False,
        proxy_headers=serving.public_url is not None and serving.certificate is None,
        ssl_certfile=serving.certificate,
        ssl_keyfile=serving.key,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 * 1024,
    )
    # After its orderly end the server raises the signal that ended it once more: it has been obeyed.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run([listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        service.close()
