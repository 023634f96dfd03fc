"""Statements that every batch or every connect executes: made to text once, then given to the driver.

For each execution SQLAlchemy looks the statement up, does something to each value, and builds a result: for what a drain asks in
each of its transactions that takes three times as long as SQLite takes to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError

Row = Mapping[str, Any]


class Prepared:
    """A statement with named parameters. Its rows come as the driver gives them: for columns of numbers and texts only."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._forms: dict[Dialect, _Form] = {}

    def select(self, connection: Connection, parameters: Row) -> list[Any]:
        """Return all rows. Raises SQLAlchemy's errors."""
        return self._of(connection).run(connection, [parameters], is_query=True)

    def execute(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Execute it once for each row of parameters. Raises SQLAlchemy's errors."""
        self._of(connection).run(connection, rows, is_query=False)

    def _of(self, connection: Connection) -> _Form:
        form = self._forms.get(connection.dialect)
        if form is None:
            form = self._forms[connection.dialect] = _Form(self._statement, connection.dialect)
        return form


class _Form:
    """A statement as one dialect's driver takes it."""

    def __init__(self, statement: Any, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._dialect = dialect
        self._text = str(compiled)
        self._is_positional: bool = compiled.positional
        names: Sequence[str] = compiled.positiontup if compiled.positional else list(compiled.binds)
        types = [compiled.binds[name].type.dialect_impl(dialect) for name in names]
        processors: list[Callable[[Any], Any] | None] = [each.bind_processor(dialect) for each in types]
        self._parameters = list(zip(names, processors, strict=True))

    def run(self, connection: Connection, rows: Sequence[Row], *, is_query: bool) -> list[Any]:
        values = [self._values(row) for row in rows]
        cursor = connection.connection.cursor()
        try:
            if is_query:
                cursor.execute(self._text, values[0])
                return list(cursor.fetchall())
            cursor.executemany(self._text, values)
            return []
        except self._dialect.loaded_dbapi.Error as error:
            # Without the values: among them is what people write (G8).
            base = self._dialect.loaded_dbapi.Error
            raise DBAPIError.instance(
                self._text, None, error, base, hide_parameters=True, dialect=self._dialect
            ) from error
        finally:
            cursor.close()

    def _values(self, row: Row) -> Any:
        values = [row[name] if process is None else process(row[name]) for name, process in self._parameters]
        return (
            values if self._is_positional else {name: v for (name, _), v in zip(self._parameters, values, strict=True)}
        )
