"""What people and programs are shown of webhooks: who is told what, and what became of it. Functions read only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import delivery, webhook

_SHOWN = (webhook.c.id, webhook.c.url, webhook.c.events, webhook.c.created)


def receivers(connection: sa.Connection) -> list[Any]:
    """Webhooks that are told something, oldest first, without their secrets."""
    wanted = sa.select(*_SHOWN).where(webhook.c.disabled.is_(None)).order_by(webhook.c.id)
    return list(connection.execute(wanted).all())


def receiver(connection: sa.Connection, webhook_id: int) -> Any:
    """One webhook, without its secret, and with the time of its removal.

    Raises:
        RefusedError: there never was such a webhook.
    """
    found = connection.execute(sa.select(*_SHOWN, webhook.c.disabled).where(webhook.c.id == webhook_id)).first()
    if found is None:
        raise RefusedError("missing", "there is no such webhook")
    return found


def deliveries(connection: sa.Connection, webhook_id: int, before: int, limit: int) -> list[Any]:
    """What was sent to a webhook and what became of it, newest first.

    Args:
        before: the id of the last one already read.

    Raises:
        RefusedError: there never was such a webhook.
    """
    receiver(connection, webhook_id)
    mine = sa.select(delivery).where(delivery.c.webhook_id == webhook_id, delivery.c.id < before)
    return list(connection.execute(mine.order_by(delivery.c.id.desc()).limit(limit)).all())
