#!/usr/bin/env python3
"""Verifies a bundle of `allq audit export`, offline. Needs Python 3.9 or later and the package `cryptography`.

    python verify.py BUNDLE [--origin allq-ledger-…] [--checkpoint FILE] [--complete]

Take this file from allq's release rather than from the bundle: whoever made that could have put in another one.

BUNDLE is the zip file. `--origin` is the ledger's name as you know it from elsewhere: it is made of the first key.
`--checkpoint` is a file of checkpoints that you have kept, a line each, as allq exports them: the bundle must have the
very same, but for those that went with a restored backup, as a checkpoint of it says, and those newer than the bundle.
`--complete`: it must have every event of the ledger; without it, how many it lacks is said.
Exit code 0: everything fits; 1: something doesn't, and all of it is said, of each kind the first hundred. This file
uses nothing of allq; the format is described in docs/ledger.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
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

MOST = 100
"""So many problems of a kind are said one by one."""

OTHER_SHAPE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What reading a line comes to that allq has not written."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How a bundle's files are packed. Others, which a Python may lack, have errors of their own."""

NO_FILE = (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a file of a zip file comes to that is damaged, or lacks it."""


class Problems:
    """What does not fit, said as it is found; the same sentence about something else is of the same kind."""

    def __init__(self) -> None:
        self.of_kind: dict[str, int] = {}

    def tell(self, sentence: str, *about: object) -> None:
        """Say it."""
        self.of_kind[sentence] = self.of_kind.get(sentence, 0) + 1
        if self.of_kind[sentence] <= MOST:
            sys.stderr.write(escaped(sentence.format(*(str(one)[:200] for one in about))) + "\n")

    def end(self) -> bool:
        """Say of what there is more, and how much there is; True when there is any."""
        for sentence, count in self.of_kind.items():
            if count > MOST:
                sys.stderr.write(f"And {count - MOST} more of these: {sentence.replace('{}', '…')}\n")
        count = sum(self.of_kind.values())
        if count:
            sys.stderr.write(f"{count} problem{'s' if count > 1 else ''}: the bundle does not fit.\n")
        return count > 0


def escaped(text: str) -> str:
    """A sentence with control characters escaped: the bundle may be anybody's."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def each(bundle: zipfile.ZipFile, name: str, problems: Problems, verify: Callable[[Any], None]) -> None:
    """Have every JSON document of a file of the bundle verified, a line each."""
    try:
        if bundle.getinfo(name).compress_type not in METHODS:
            raise zipfile.BadZipFile("it is packed in a way that allq never does")
        with bundle.open(name) as file:
            for number, line in enumerate(file, 1):
                try:
                    verify(json.loads(line))
                except OTHER_SHAPE as error:
                    problems.tell("Line {} of {} is none that allq writes: {}.", number, name, repr(error))
    except NO_FILE as error:
        problems.tell("The bundle's {} can't be read: {}.", name, repr(error))


def parts_of(note: str) -> dict[str, Any]:
    """The lines of a checkpoint's text by name: origin, size, root, then as they name themselves; the note's digest."""
    lines = note.rpartition("\n\n\u2014 ")[0].split("\n")
    parts: dict[str, Any] = {"origin": lines[0], "size": int(lines[1]), "root": base64.b64decode(lines[2])}
    parts |= dict(line.split(" ", 1) for line in lines[3:])
    lost, _, digest = parts.get("given-up", "0 ").partition(" ")
    parts |= {"number": int(parts["number"]), "given_up": (int(lost), digest)}
    return {**parts, "note": note, "digest": sha256(note.encode()).hex()}


def verify_checkpoints(bundle: zipfile.ZipFile, problems: Problems) -> list[dict[str, Any]]:
    """Every checkpoint: its signature by the key that is due, its chain to the one before, its size, the origin."""
    found: list[dict[str, Any]] = []

    def verify(record: Any) -> None:
        note, key = record["note"], bytes.fromhex(record["public_key"])
        parts = parts_of(note)
        number, size, _ = parts["number"], parts["size"], parts["sealed"]
        key_after = base64.b64decode(parts["next-key"]) if "next-key" in parts else key
        text, _, signed = note.rpartition("\n\u2014 ")
        name, _, signature = signed.rstrip("\n").partition(" ")
        signature = base64.b64decode(signature)
        before: dict[str, Any] = found[-1] if found else {"key_after": key, "digest": "0" * 64, "number": 0}
        if not found and parts["origin"] != "allq-ledger-" + sha256(key).hex()[:32]:
            problems.tell("The origin of checkpoint {} is not that of the first key.", number)
        if found and (parts["origin"] != found[0]["origin"] or size <= before["size"]):
            problems.tell("Checkpoint {} has another origin, or no more leaves than the one before.", number)
        if number != before["number"] + 1 and not before["number"] < number == parts["given_up"][0] + 1:
            problems.tell("Checkpoint {} does not follow the one before, {}.", number, before["number"])
        if key != before["key_after"]:
            problems.tell("Checkpoint {} is signed with a key that the one before does not name.", number)
        if parts["previous"] != before["digest"]:
            problems.tell("Checkpoint {} is not chained to the one before.", number)
        if name != parts["origin"] or signature[:4] != sha256(f"{name}\n\x01".encode() + key)[:4]:
            problems.tell("The signature of checkpoint {} names another key.", number)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature[4:], text.encode())
        except InvalidSignature:
            problems.tell("The signature of checkpoint {} is not that of its key.", number)
        found.append({**parts, "key_after": key_after})

    each(bundle, "checkpoints.jsonl", problems, verify)
    if not found:
        problems.tell("The bundle has no checkpoint.")
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


def verify_events(bundle: zipfile.ZipFile, newest: dict[str, Any], problems: Problems) -> dict[int, Any]:
    """Every event is a leaf of its own in the tree that the newest checkpoint signs."""
    found: dict[int, Any] = {}
    leaves: set[int] = set()

    def verify(record: Any) -> None:
        text, leaf = record["event"], record["leaf"]
        number, size = newest["number"], newest["size"]
        if type(leaf) is not int or not 0 <= leaf < size or leaf in leaves:
            problems.tell("There is no leaf {} in the tree of checkpoint {}, or it came before.", leaf, number)
        else:
            leaves.add(leaf)
            if root_from_proof(sha256(b"\x00" + text.encode()), leaf, size, record["proof"]) != newest["root"]:
                problems.tell("The event at leaf {} is not in the tree of checkpoint {}.", leaf, number)
        unclear = "The event at leaf {} is not in canonical JSON: it may be read in more than one way."
        try:
            event = json.loads(text)
            again = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            problems.tell(unclear, leaf)
            return
        if again != text:
            problems.tell(unclear, leaf)
        event_id, body, _, _ = event["id"], event["body"], event["kind"], event["chunk"]
        if not isinstance(body, dict):
            problems.tell("The body of the event at leaf {} is no JSON object: allq never writes such a one.", leaf)
        elif event_id in found:
            problems.tell("Event {} stands at two leaves.", event_id)
        else:
            found[event_id] = event

    each(bundle, "events.jsonl", problems, verify)
    return found


class Places:
    """Which slide and file each field is, and the slides' names: the lines that the events have digests of."""

    def __init__(self, events: dict[int, Any], problems: Problems) -> None:
        self.screened = self.failed = 0
        self._events = events
        self._problems = problems
        self._seen: set[tuple[str, int]] = set()
        self._failed: set[str] = set()
        self._names: Any = None
        self._of_names: int | None = None

    def verify(self, record: Any) -> None:
        """Compare the lines of an event. The names of a batch's slides may come in parts, one after the other."""
        number, of, lines = record["event"], record["of"], record["lines"]
        event = self._events.get(number)
        if event is None:
            self._problems.tell("Event {}, which tells of {}, is not in the bundle.", number, of)
            return
        if any("\n" in line for line in lines):
            self._problems.tell("The lines of {} of event {} are drawn together.", of, number)
            return
        if of != "slide_names" or number != self._of_names:
            self.finish()
            if (of, number) in self._seen or (of == "places" and event["kind"] != "chunk-recorded"):
                self._problems.tell("Event {} tells of no {}, or they came before.", number, of)
                return
            self._seen.add((of, number))
        ended = [line.encode() + b"\n" for line in lines]
        if of == "places":
            self.screened += len(lines)
            if sha256(b"".join(ended)).hex() != event["body"].get("places"):
                self._problems.tell(
                    "The slides and files of chunk {} are not those of event {}.", event["chunk"], number
                )
        elif of == "shown":
            digests = [sha256(line).hex() for line in ended]
            told = {one.get("shown") for one in event["body"].get("failures", [event["body"]])}
            fresh = set(digests)
            if not told.issuperset(fresh) or len(fresh) < len(digests) or not self._failed.isdisjoint(fresh):
                self._problems.tell("The failed fields are not those of event {}, or they came before.", number)
            self._failed |= fresh
            self.failed += len(lines)
        elif of == "slide_names":
            if number != self._of_names:
                self._names, self._of_names = hashlib.sha256(), number
            for line in ended:
                self._names.update(line)
        else:
            self._problems.tell("Events have no digest of {}, which are said to be of event {}.", of, number)

    def finish(self) -> None:
        """After the last names of a batch's slides."""
        if self._of_names is not None:
            event = self._events[self._of_names]
            if self._names.hexdigest() != event["body"].get("slide_names"):
                sentence = "The names of the slides of batch {} are not those of event {}."
                self._problems.tell(sentence, event["batch"], self._of_names)
            self._of_names = None

    def lacking(self) -> None:
        """After all: no chunk's may lack. A failed field's does where it was tried again since."""
        for number, event in self._events.items():
            tells = event["kind"] == "chunk-recorded" and "places" in event["body"]
            if tells and ("places", number) not in self._seen:
                self._problems.tell("The slides and files that event {} tells of are not in the bundle.", number)


def verify_places(bundle: zipfile.ZipFile, events: dict[int, Any], problems: Problems) -> str:
    """Every line of a slide, a file or a name is one that its event has the digest of. What there is, or is not."""
    if "places.jsonl" not in bundle.namelist():
        return "It has no places.jsonl: which slide and which file a field is, it does not tell."
    places = Places(events, problems)
    each(bundle, "places.jsonl", problems, places.verify)
    places.finish()
    places.lacking()
    return f"It tells slide and file of {places.screened} screened and {places.failed} failed fields."


def verify_rows(bundle: zipfile.ZipFile, events: dict[int, Any], problems: Problems) -> int:
    """Every row is the one that its event has the digest of, and no event lacks its rows."""
    seen: dict[int, int] = {}

    def verify(record: Any) -> None:
        number, table, lines = record["event"], record["table"], record["lines"]
        event = events.get(number)
        if event is None:
            problems.tell("Event {}, which tells of rows of {}, is not in the bundle.", number, table)
            return
        if TABLES.get(event["kind"]) != table or number in seen:
            problems.tell("Event {} tells of no rows of {}, or they came before.", number, table)
            return
        seen[number] = len(lines)
        if any("\n" in line for line in lines):
            problems.tell("The lines of the rows of event {} are drawn together.", number)
        elif table == "finding":
            digest = sha256(b"".join(line.encode() + b"\n" for line in lines)).hex()
            if digest != event["body"].get("findings"):
                problems.tell("The findings of chunk {} are not those of event {}.", event["chunk"], number)
        elif [sha256(line.encode()).hex() for line in lines] != [event["body"].get("row")]:
            problems.tell("The row of {} is not the one of event {}.", table, number)

    each(bundle, "rows.jsonl", problems, verify)
    for number, event in events.items():
        tells = event["body"].get("row") or (event["kind"] == "chunk-recorded" and event["body"].get("screened"))
        if tells and number not in seen:
            problems.tell("The rows that event {} tells of are not in the bundle.", number)
    return sum(seen.values())


def kept_lines(name: str) -> Iterator[str]:
    """The lines of a file of checkpoints, but for what a power cut has torn: the whole line follows that."""
    with Path(name).open(encoding="utf-8") as file:
        before = ""
        for line in file:
            if not line.startswith(before.rstrip("\n")):
                yield before
            before = line
        if before.endswith(("}", "\n")):
            yield before


def verify_kept(name: str, checkpoints: list[dict[str, Any]], problems: Problems) -> list[str]:
    """The bundle has the very checkpoints that somebody has kept. What is to be said where it lacks some lawfully."""
    notes = {one["note"] for one in checkpoints}
    count, others = 0, []
    try:
        for note in (json.loads(line)["note"] for line in kept_lines(name) if line.strip()):
            count += 1
            if note not in notes:
                others.append(parts_of(note))
    except (OSError, *OTHER_SHAPE) as error:
        problems.tell("{} is no file of checkpoints: {}.", name or "''", repr(error))
        return []
    if not count:
        problems.tell("{} has no checkpoint that the bundle could be compared with.", name)
    newest = checkpoints[-1]
    of_others = [one for one in others if one["origin"] != newest["origin"]]
    for one in of_others:
        problems.tell("The checkpoint {} that you have kept is of {}.", one["number"], one["origin"])
    ours = [one for one in others if one["origin"] == newest["origin"]]
    lost = verify_lost([one for one in ours if one["number"] <= newest["number"]], checkpoints, problems)
    newer = verify_newer([one for one in ours if one["number"] > newest["number"]], newest, problems)
    if newer and count == len(ours):
        newer.append("None of those that you have kept is in the bundle.")
    return lost + newer


def verify_lost(kept: list[dict[str, Any]], checkpoints: list[dict[str, Any]], problems: Problems) -> list[str]:
    """Kept checkpoints that a bundle lacks were given up with a restored backup, as the checkpoint after them says."""
    due: dict[int, str] = {}
    gaps: list[tuple[int, int, int]] = []
    before = 0
    for one in checkpoints:
        last, digest = one["given_up"]
        if last:
            due[last] = digest
            gaps.append((before, last, one["number"]))
        before = one["number"]
    lost: dict[int, list[int]] = {}
    for one in sorted(kept, key=lambda one: -int(one["number"])):
        number = one["number"]
        by = next((by for before, last, by in gaps if before < number <= last), None)
        if by is None:
            problems.tell("The bundle has not the checkpoint {} that you have kept.", number)
        elif due.get(number, one["digest"]) != one["digest"]:
            problems.tell("The checkpoint {} that you have kept is not the one that {} gives up.", number, by)
        else:
            last, digest = one["given_up"]
            due[last or number - 1] = digest if last else one["previous"]
            lost.setdefault(by, []).append(number)
    return [
        f"{those(numbers)} that you have kept went with a restored backup; checkpoint {number} of the bundle says so."
        for number, numbers in lost.items()
    ]


def verify_newer(kept: list[dict[str, Any]], newest: dict[str, Any], problems: Problems) -> list[str]:
    """Of kept checkpoints newer than the bundle the next must go on from the bundle's newest, or give it up."""
    if not kept:
        return []
    for one in kept:
        last, digest = one["given_up"]
        goes_on = last or one["number"] - 1, digest if last else one["previous"]
        if goes_on[0] == newest["number"] and goes_on[1] != newest["digest"]:
            problems.tell("The checkpoint {} that you have kept goes on from another than the bundle's.", one["number"])
    numbers = [one["number"] for one in kept]
    return [f"{those(numbers)} that you have kept came after the bundle, whose newest is {newest['number']}."]


def those(numbers: list[int]) -> str:
    """Checkpoints by their numbers."""
    first, last = min(numbers), max(numbers)
    return f"Checkpoint {first}" if first == last else f"Checkpoints {first} to {last}"


def main() -> int:
    """Verify, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--origin")
    parser.add_argument("--checkpoint")
    parser.add_argument("--complete", action="store_true")
    given = parser.parse_args()
    problems = Problems()
    said: list[str] = []
    try:
        with zipfile.ZipFile(given.bundle) as bundle:
            checkpoints = verify_checkpoints(bundle, problems)
            if not checkpoints:  # no event can be held against any
                problems.end()
                return 1
            newest = checkpoints[-1]
            if given.origin is not None and newest["origin"] != given.origin:
                problems.tell("The ledger is {}, not {}.", newest["origin"], given.origin or "one without a name")
            if given.checkpoint is not None:
                said += verify_kept(given.checkpoint, checkpoints, problems)
            events = verify_events(bundle, newest, problems)
            rows = verify_rows(bundle, events, problems)
            said.append(verify_places(bundle, events, problems))
    except (ValueError, *NO_FILE) as error:
        problems.tell("This is no bundle of `allq audit export`: {}.", error)
        problems.end()
        return 1
    lacking = newest["size"] - len(events)
    if lacking and given.complete:
        problems.tell("{} of {} events of the ledger are not in this bundle.", lacking, newest["size"])
    if problems.end():
        return 1
    if given.origin is None and given.checkpoint is None:
        said.append(
            "Compare this origin with the one that you know from elsewhere, and give it with --origin: a bundle made "
            "with another key fits in itself as well."
        )
    fits = (
        f"Everything fits: {len(events)} events and {rows} rows, under {len(checkpoints)} checkpoints of "
        f"{newest['origin']}; the newest is {newest['number']}, "
        f"sealed {newest['sealed']}, over {newest['size']} events, of which {lacking} are not in this bundle."
    )
    sys.stdout.writelines(f"{escaped(one)}\n" for one in (fits, *said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
