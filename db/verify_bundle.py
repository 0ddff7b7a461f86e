#!/usr/bin/env python3
"""Verifies a bundle of `allq audit export`, offline. Needs Python 3.9 or later and the package `cryptography`.

    python verify.py BUNDLE [--origin allq-ledger-…] [--checkpoint FILE] [--complete]

BUNDLE is the zip file. `--origin` is the ledger's name as you know it from elsewhere: it is made of the first key.
`--checkpoint` is a checkpoint that you have kept (a line of the exported file): the bundle must have the very same.
`--complete`: it must have every event of the ledger; without it, how many it lacks is said.
Exit code 0: everything fits; 1: the first thing that doesn't is said. This file uses nothing of allq; the format is
described in docs/ledger.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TABLES = {
    "chunk-recorded": "finding",
    "model-remembered": "model",
    "model-activated": "activation",
    "slide-called": "slide_call",
    "slide-reviewed": "review",
}
"""The kinds of events that tell of rows, and of which table's."""


class Wrong(Exception):
    """Something in the bundle does not fit."""


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def lines_of(bundle: zipfile.ZipFile, name: str) -> Iterator[Any]:
    """The JSON documents of a file of the bundle, a line each."""
    with bundle.open(name) as file:
        for line in file:
            yield json.loads(line)


def parts_of(note: str) -> dict[str, str]:
    """The lines of a checkpoint's text by name: origin, size, root, then as they name themselves."""
    lines = note.rpartition("\n\n\u2014 ")[0].split("\n")
    return {"origin": lines[0], "size": lines[1], "root": lines[2], **dict(line.split(" ", 1) for line in lines[3:])}


def verify_checkpoints(bundle: zipfile.ZipFile) -> list[dict[str, str]]:
    """Every checkpoint: its signature by the key that is due, its chain to the one before, its size, the origin."""
    found: list[dict[str, str]] = []
    expected, previous = None, "0" * 64
    for record in lines_of(bundle, "checkpoints.jsonl"):
        note, key = record["note"], bytes.fromhex(record["public_key"])
        parts = parts_of(note)
        number = parts["number"]
        if expected is None:
            if parts["origin"] != "allq-ledger-" + sha256(key).hex()[:32]:
                raise Wrong(f"The origin of checkpoint {number} is not that of the first key.")
            expected = key
        elif parts["origin"] != found[0]["origin"] or int(parts["size"]) <= int(found[-1]["size"]):
            raise Wrong(f"Checkpoint {number} has another origin, or no more leaves than the one before.")
        if key != expected:
            raise Wrong(f"Checkpoint {number} is signed with a key that the one before does not name.")
        if parts["previous"] != previous:
            raise Wrong(f"Checkpoint {number} is not chained to the one before.")
        text, _, signed = note.rpartition("\n\u2014 ")
        name, _, signature = signed.rstrip("\n").partition(" ")
        signature = base64.b64decode(signature)
        if name != parts["origin"] or signature[:4] != sha256(f"{name}\n\x01".encode() + key)[:4]:
            raise Wrong(f"The signature of checkpoint {number} names another key.")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature[4:], text.encode())
        except InvalidSignature:
            raise Wrong(f"The signature of checkpoint {number} is not that of its key.") from None
        previous = sha256(note.encode()).hex()
        expected = base64.b64decode(parts["next-key"]) if "next-key" in parts else key
        found.append({**parts, "note": note})
    if not found:
        raise Wrong("The bundle has no checkpoint.")
    return found


def root_from_proof(leaf: bytes, index: int, size: int, proof: list[str]) -> bytes:
    """RFC 9162, section 2.1.3.2."""
    node, last = index, size - 1
    for text in proof:
        other = bytes.fromhex(text)
        if last == 0:
            return b""
        if node & 1 or node == last:
            leaf = sha256(b"\x01" + other + leaf)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            leaf = sha256(b"\x01" + leaf + other)
        node, last = node >> 1, last >> 1
    return leaf if last == 0 else b""


def verify_events(bundle: zipfile.ZipFile, newest: dict[str, str]) -> dict[int, Any]:
    """Every event is a leaf of its own in the tree that the newest checkpoint signs."""
    found: dict[int, Any] = {}
    leaves: set[int] = set()
    root, size = base64.b64decode(newest["root"]), int(newest["size"])
    for record in lines_of(bundle, "events.jsonl"):
        text, leaf = record["event"], record["leaf"]
        if type(leaf) is not int or not 0 <= leaf < size or leaf in leaves:
            raise Wrong(f"There is no leaf {leaf} in the tree of checkpoint {newest['number']}, or it came before.")
        leaves.add(leaf)
        if root_from_proof(sha256(b"\x00" + text.encode()), leaf, size, record["proof"]) != root:
            raise Wrong(f"The event at leaf {leaf} is not in the tree of checkpoint {newest['number']}.")
        try:
            event = json.loads(text)
            again = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            again = ""
        if again != text:
            raise Wrong(f"The event at leaf {leaf} is not in canonical JSON: it may be read in more than one way.")
        if not isinstance(event["body"], dict):
            raise Wrong(f"The body of the event at leaf {leaf} is no JSON object: allq never writes such a one.")
        if event["id"] in found:
            raise Wrong(f"Event {event['id']} stands at two leaves.")
        found[event["id"]] = event
    return found


def verify_rows(bundle: zipfile.ZipFile, events: dict[int, Any]) -> int:
    """Every row is the one that its event has the digest of, and no event lacks its rows."""
    count, seen = 0, set()
    for record in lines_of(bundle, "rows.jsonl"):
        event = events.get(record["event"])
        if event is None:
            raise Wrong(f"Event {record['event']}, which tells of rows of {record['table']}, is not in the bundle.")
        if TABLES.get(event["kind"]) != record["table"] or event["id"] in seen:
            raise Wrong(f"Event {event['id']} tells of no rows of {record['table']}, or they came before.")
        lines = record["lines"]
        if any("\n" in line for line in lines):
            raise Wrong(f"The lines of the rows of event {event['id']} are drawn together.")
        body = event["body"]
        seen.add(event["id"])
        if record["table"] == "finding":
            digest = sha256(b"".join(line.encode() + b"\n" for line in lines)).hex()
            if digest != body.get("findings"):
                raise Wrong(f"The findings of chunk {event['chunk']} are not those of event {event['id']}.")
        elif [sha256(line.encode()).hex() for line in lines] != [body.get("row")]:
            raise Wrong(f"The row of {record['table']} is not the one of event {event['id']}.")
        count += len(lines)
    for number, event in events.items():
        tells = event["body"].get("row") or (event["kind"] == "chunk-recorded" and event["body"].get("screened"))
        if tells and number not in seen:
            raise Wrong(f"The rows that event {number} tells of are not in the bundle.")
    return count


def main() -> int:
    """Verify, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--origin")
    parser.add_argument("--checkpoint")
    parser.add_argument("--complete", action="store_true")
    given = parser.parse_args()
    try:
        with zipfile.ZipFile(given.bundle) as bundle:
            checkpoints = verify_checkpoints(bundle)
            if given.origin and checkpoints[0]["origin"] != given.origin:
                raise Wrong(f"The ledger is {checkpoints[0]['origin']}, not {given.origin}.")
            if given.checkpoint:
                with open(given.checkpoint, encoding="utf-8") as file:  # noqa: PTH123 - stands alone
                    kept = [json.loads(line)["note"] for line in file if line.strip()]
                if missing := set(kept) - {one["note"] for one in checkpoints}:
                    number = re.search(r"\nnumber (\d+)\n", missing.pop())
                    raise Wrong(f"The bundle has not the checkpoint {number[1] if number else ''} that you have kept.")
            newest = checkpoints[-1]
            events = verify_events(bundle, newest)
            rows = verify_rows(bundle, events)
            lacking = int(newest["size"]) - len(events)
            if lacking and given.complete:
                raise Wrong(f"{lacking} of {newest['size']} events of the ledger are not in this bundle.")
    except Wrong as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"This is no bundle of `allq audit export`: {error}\n")
        return 1
    sys.stdout.write(
        f"Everything fits: {len(events)} events and {rows} rows, under {len(checkpoints)} checkpoints of "
        f"{newest['origin']}; the newest is {newest['number']}, "
        f"sealed {newest['sealed']}, over {newest['size']} events, of which {lacking} are not in this bundle.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
