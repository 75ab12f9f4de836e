"""What raters call a showing, which places of an item a split asked for, and whose verdicts were discarded."""

import hashlib
import hmac

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("item", sa.Column("extra", sa.Integer(), server_default="0", nullable=False))
    op.add_column("rater", sa.Column("discarded", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(  # nothing of theirs counts: on the safe side for those who had given nothing that did
        "UPDATE rater SET discarded = true WHERE status = 'removed' AND NOT EXISTS "
        "(SELECT 1 FROM judgement WHERE judgement.rater_id = rater.id AND judgement.counted)"
    )
    op.add_column("showing", sa.Column("handle", sa.String(length=20), nullable=True))
    _fill(op.get_bind())
    with op.batch_alter_table("showing") as batch_op:
        batch_op.alter_column("handle", existing_type=sa.String(length=20), nullable=False)
        batch_op.create_index("uq_showing_handle", ["handle"], unique=True)


def _fill(connection: sa.Connection) -> None:
    """The handles that `prefloop.annotation.stream.handle_of` gives."""
    secret = connection.scalar(sa.text("SELECT secret FROM project"))
    rows = connection.execute(sa.text("SELECT item_id, rater_id, turn FROM showing")).all()
    if not rows:
        return
    change = sa.text("UPDATE showing SET handle = :handle WHERE item_id = :item AND rater_id = :rater AND turn = :turn")
    connection.execute(change, [_named(secret, *row) for row in rows])


def _named(secret: str, item_id: str, rater_id: int, turn: int) -> dict[str, object]:
    text = f"handle:{item_id}:{rater_id}:{turn}"
    handle = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:20]
    return {"handle": handle, "item": item_id, "rater": rater_id, "turn": turn}


def downgrade() -> None:
    op.drop_index("uq_showing_handle", "showing")
    op.drop_column("showing", "handle")
    op.drop_column("rater", "discarded")
    op.drop_column("item", "extra")
