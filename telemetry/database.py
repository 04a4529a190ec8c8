"""`turnpike telemetry init`: the database, its retention and its downsampling, by what the server offers."""

from __future__ import annotations

import time
from typing import Any

from broker.errors import TurnpikeError
from telemetry.influx import ApiException, BucketRetentionRules, Influx, SinkUnavailable

RAW = "raw"
RAW_DAYS = 7
MINUTES = "minutes"
"""Where the means of each minute are kept: a retention policy (1.x), or a bucket with the database's name before it."""
MINUTE_DAYS = 365
LATE_MINUTES = 10
"""How far back a minute's mean is computed anew, for points that come late."""
RETRY_SECONDS = 1.0
_DAY_SECONDS = 24 * 3600


class InitFailed(TurnpikeError):
    """The server refused a statement, in its own words."""


def init(influx: Influx, wait: float = 0.0) -> list[str]:
    """Creates what is missing and alters what differs; a line for each. Blocks; raises InitFailed, SinkUnavailable.

    A server that is not there yet is looked for again for `wait` seconds.
    """
    until = time.monotonic() + wait
    while True:
        try:
            influx.connect()
            break
        except SinkUnavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(RETRY_SECONDS)
    if not influx.version_text:
        return [f"{influx.address.url} tells no version: a stand-in for InfluxDB, whose retention is its own flag"]
    match influx.version[0]:
        case 1:
            return _init_1(influx)
        case 2:
            return _init_2(influx)
        case _:
            return _init_3(influx)


# --- 1.x: InfluxQL ---------------------------------------------------------------------------------------------------


def _ask(influx: Influx, statement: str) -> list[dict[str, Any]]:
    """The rows of a statement's first series, by column."""
    answer = influx.influxql(statement)
    result = answer.get("results", [{}])[0]
    if reason := answer.get("error") or result.get("error"):
        raise InitFailed(f"{statement}: {reason}")
    return [
        dict(zip(series["columns"], row, strict=True))
        for series in result.get("series", ())
        for row in series.get("values", ())
    ]


def _init_1(influx: Influx) -> list[str]:
    name = influx.address.database
    done = []
    if name not in {row["name"] for row in _ask(influx, "SHOW DATABASES")}:
        _ask(influx, f'CREATE DATABASE "{name}" WITH DURATION {RAW_DAYS}d REPLICATION 1 NAME "{RAW}"')
        done.append(f"database {name}: created, raw points for {RAW_DAYS} days")
    policies = {row["name"]: row for row in _ask(influx, f'SHOW RETENTION POLICIES ON "{name}"')}
    for policy, days, default in ((RAW, RAW_DAYS, " DEFAULT"), (MINUTES, MINUTE_DAYS, "")):
        wanted = f'"{policy}" ON "{name}" DURATION {days}d REPLICATION 1{default}'
        if policy not in policies:
            _ask(influx, f"CREATE RETENTION POLICY {wanted}")
            done.append(f"retention policy {policy}: created, {days} days")
        elif policies[policy]["duration"] != f"{days * 24}h0m0s" or policies[policy]["default"] != bool(default):
            _ask(influx, f"ALTER RETENTION POLICY {wanted}")
            done.append(f"retention policy {policy}: altered, {days} days")
    query = (
        f"CREATE CONTINUOUS QUERY {MINUTES} ON {name} RESAMPLE FOR {LATE_MINUTES}m BEGIN SELECT mean(*) "
        f"INTO {name}.{MINUTES}.:MEASUREMENT FROM {name}.{RAW}./.*/ GROUP BY time(1m), * END"
    )
    if (found := _continuous_query(influx, name)) != query:
        if found is not None:
            _ask(influx, f'DROP CONTINUOUS QUERY "{MINUTES}" ON "{name}"')
        _ask(influx, query.replace(f" {name}.", f' "{name}".').replace(f"ON {name}", f'ON "{name}"'))
        done.append(f"continuous query {MINUTES}: {'created' if found is None else 'renewed'}")
    return done


def _continuous_query(influx: Influx, database: str) -> str | None:
    answer = influx.influxql("SHOW CONTINUOUS QUERIES")
    for series in answer["results"][0].get("series", ()):
        if series["name"] == database:
            for name, query in series.get("values", ()):
                if name == MINUTES:
                    # The server quotes what would not need it.
                    return str(query).replace('"', "")
    return None


# --- 2.x: buckets and a task -----------------------------------------------------------------------------------------


def _init_2(influx: Influx) -> list[str]:
    name, org = influx.address.database, influx.address.org
    buckets, tasks = influx.client.buckets_api(), influx.client.tasks_api()
    done = []
    try:
        for bucket, days in ((name, RAW_DAYS), (f"{name}_{MINUTES}", MINUTE_DAYS)):
            rules = [BucketRetentionRules(type="expire", every_seconds=days * _DAY_SECONDS)]
            found = buckets.find_bucket_by_name(bucket)
            if found is None:
                buckets.create_bucket(bucket_name=bucket, org=org, retention_rules=rules)
                done.append(f"bucket {bucket}: created, {days} days")
            elif [rule.every_seconds for rule in found.retention_rules] != [days * _DAY_SECONDS]:
                found.retention_rules = rules
                buckets.update_bucket(found)
                done.append(f"bucket {bucket}: altered, {days} days")
        task = f"{name}-{MINUTES}"
        if not tasks.find_tasks(name=task):
            flux = (
                f'import "types"\n\nfrom(bucket: "{name}") |> range(start: -{LATE_MINUTES}m) '
                '|> filter(fn: (r) => not types.isType(v: r._value, type: "string") '
                'and not types.isType(v: r._value, type: "bool")) '
                f'|> aggregateWindow(every: 1m, fn: mean, createEmpty: false) |> to(bucket: "{name}_{MINUTES}")'
            )
            organization = influx.client.organizations_api().find_organizations(org=org)[0]
            tasks.create_task_every(task, flux, "1m", organization)
            done.append(f"task {task}: created")
    except ApiException as error:
        raise InitFailed(f"InfluxDB {influx.version_text}: {error.status} {error.reason}") from None
    return done


# --- 3 Core: databases -----------------------------------------------------------------------------------------------


def _init_3(influx: Influx) -> list[str]:
    name = influx.address.database
    try:
        influx.call_json("/api/v3/configure/database", "POST", {"db": name, "retention_period": f"{RAW_DAYS}d"})
    except SinkUnavailable as error:
        if "exist" not in error.reason:
            raise
        return []
    return [
        f"database {name}: created, raw points for {RAW_DAYS} days; InfluxDB 3 Core offers no downsampling by its API"
    ]
