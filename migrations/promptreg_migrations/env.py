"""What Alembic runs: on the connection that promptreg brings, else on the database that ``-x url=`` names."""

import os

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from promptreg.database import urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.database.orm import Base
from promptreg.database.schema import make_file


def run(connection: Connection) -> None:
    """Run the migrations on ``connection``, within the transaction that it is in."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by making another one
        transactional_ddl=True,  # on our engines SQLite's is, too
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_for_a_developer() -> None:
    """Run the migrations on the database of ``-x url=URL`` or ``PROMPTREG_DATABASE_URL``."""
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get(
        "PROMPTREG_DATABASE_URL"
    )
    if not isinstance(url, str):
        raise CommandError("name a database: alembic -x url=sqlite:///dev.db upgrade head")
    parsed = urls.parse(url)
    file = urls.file_of(parsed)
    if file is not None:
        make_file(file, urls.display(parsed))
    engine = create_engine(parsed, migrating=True)
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        run(connection)
    engine.dispose()


if context.is_offline_mode():
    raise CommandError("promptreg's migrations run on a database; leave out --sql")
_connection = context.config.attributes.get("connection")
if _connection is None:
    run_for_a_developer()
else:
    run(_connection)
