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
    assert "geheim" not in repr(load(_env_file=None))


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
