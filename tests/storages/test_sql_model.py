"""The model against SQLite and PostgreSQL: random sequences of everything a queue can do."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.testing.model import QueueMachine
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from pathlib import Path
from services import PostgresServer
from typing import Any
import logging
import pytest
import sqlalchemy


#: The same sequences each time, so that a red run is the fault of what was changed.
SEQUENCES = settings(
    max_examples=8,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return postgres_server.new_database()


def test_sql_does_what_the_model_does(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Guarantees 1 to 3, order included."""
    caplog.set_level(logging.CRITICAL, "collective.taskqueue")
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    made: list[SqlStorage] = []

    class Machine(QueueMachine):
        def make_storage(self, clock: Any, **fields: Any) -> Any:
            while made:
                made.pop().close()
            with engine.begin() as connection:
                METADATA.drop_all(connection)
            # A slow machine is not a server that does not answer.
            fields = {"url": url, "stage_timeout": 20.0, **fields, "type": "sql"}
            made.append(SqlStorage(QueueSettings(**fields), clock))
            return made[-1]

    try:
        run_state_machine_as_test(Machine, settings=SEQUENCES)
    finally:
        made.pop().close()
        engine.dispose()
