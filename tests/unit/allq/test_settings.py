import os
import pickle
from pathlib import Path

import pytest

from allq.errors import FailureCode, FieldError, SettingsError
from allq.settings import load, unknown_variables


def test_without_any_variable_the_embedded_default_is_used(tmp_path):
    settings = load(home=tmp_path, _env_file=None)
    assert settings.embedded_database
    assert settings.embedded_broker
    assert settings.database == f"sqlite:///{tmp_path / 'allq.db'}"


def test_a_wrong_setting_is_named_in_one_sentence(monkeypatch):
    monkeypatch.setenv("ALLQ_CHUNK_SIZE", "many")
    with pytest.raises(SettingsError, match="ALLQ_CHUNK_SIZE can't be used"):
        load(_env_file=None)


def test_roots_are_separated_like_a_search_path(monkeypatch, tmp_path):
    monkeypatch.setenv("ALLQ_ROOTS", f"{tmp_path}:/srv/slides")
    assert load(_env_file=None).roots == (tmp_path.resolve(), Path("/srv/slides"))


def test_passwords_do_not_appear_when_settings_are_printed(monkeypatch):
    monkeypatch.setenv("ALLQ_DATABASE_URL", "postgresql+psycopg://allq:geheim@db/allq")
    monkeypatch.setenv("ALLQ_BROKER_URL", "redis://:geheim@broker/0")
    monkeypatch.setenv("ALLQ_LEDGER_HOOKS", "https://lab:geheim@127.0.0.1/kept")
    assert "geheim" not in repr(load(_env_file=None))


@pytest.mark.parametrize(
    "hook", ["journal", "s3://127.0.0.1/x", "https://", "https://127.0.0.1:x/", "https://127.0.0.1/x#2"]
)
def test_a_hook_that_is_none_is_refused_without_repeating_it(monkeypatch, hook):
    monkeypatch.setenv("ALLQ_LEDGER_HOOKS", f"syslog /bin/true http://127.0.0.1:80/x?y=1 {hook}")
    with pytest.raises(SettingsError, match="ALLQ_LEDGER_HOOKS can't be used") as refused:
        load(_env_file=None)
    assert hook == "https://" or hook not in str(refused.value)


def test_a_field_error_survives_pickling():
    error = pickle.loads(pickle.dumps(FieldError(FailureCode.CORRUPT, "the file is cut off")))
    assert (error.code, str(error)) == (FailureCode.CORRUPT, "the file is cut off")


def test_variables_that_look_like_settings_and_are_none_are_found_with_the_nearest_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("ALLQ_")]:
        monkeypatch.delenv(name)
    assert unknown_variables() == {}
    for name in ("ALLQ_HOME", "allq_roots", "ALLQ_TEST_DATA", "ALLQ_DATABSE_URL", "_ALLQ_COMPLETE", "MALLQ_X"):
        monkeypatch.setenv(name, "x")
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nALLQ_MODEL=x\nALLQ_COLOUR=red\n")
    assert unknown_variables() == {"ALLQ_DATABSE_URL": "ALLQ_DATABASE_URL", "ALLQ_COLOUR": None}


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ALLQ_DATABASE_URL", "postgresql://allq:ge@heim@db/allq"),
        ("ALLQ_DATABASE_URL", "postgresql://allq:ge/heim@db/allq"),
        ("ALLQ_DATABASE_URL", "postgresql://allq:g@e/heim@db/allq"),
        ("ALLQ_DATABASE_URL", "postgresql://allq:ge#heim@db/allq"),
        ("ALLQ_BROKER_URL", "redis://:ge?heim@broker/0"),
        ("ALLQ_BROKER_URL", "rediss://:ge/heim@broker/0"),
        ("ALLQ_BROKER_URL", "redis://:ge;heim@broker/0"),
    ],
)
def test_a_password_that_a_url_would_cut_short_is_refused_without_repeating_it(monkeypatch, name, url):
    monkeypatch.setenv(name, url)
    with pytest.raises(SettingsError, match=f"{name} can't be used: in its password write @") as caught:
        load(_env_file=None)
    assert "heim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://allq:ge%40heim@db:5432/allq?sslrootcert=/etc/ca@lab.pem",
        "postgresql://db/allq?user=allq@lab&password=geheim",
        "postgresql://allq:geheim@[::1]:5432/allq",
        "sqlite:////srv/a@b/allq.db",
    ],
)
def test_an_encoded_password_and_an_at_sign_elsewhere_are_fine(monkeypatch, url):
    monkeypatch.setenv("ALLQ_DATABASE_URL", url)
    assert load(_env_file=None).database == url


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[2J", "\u202ea", "x" * 201])
def test_an_operator_is_somebody_and_on_one_line(monkeypatch, name):
    monkeypatch.setenv("ALLQ_OPERATOR", name)
    with pytest.raises(SettingsError, match="ALLQ_OPERATOR can't be used: it must name somebody"):
        load(_env_file=None)


def test_settings_that_somebody_else_may_have_written_are_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    planted = tmp_path / ".env"
    planted.write_text("ALLQ_OPERATOR=mallory\n")
    planted.chmod(0o640)
    assert load().operator == "mallory"
    planted.chmod(0o666)
    with pytest.raises(SettingsError, match="may be written by anyone"):
        load()
    planted.chmod(0o644)
    owner = planted.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # what root has written is trusted by all; what others have, not even by root
        assert load().operator == "mallory"
        os.chown(planted, 4243, -1)
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="belongs to somebody else"):
        load()
