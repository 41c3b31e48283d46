"""Settings of the gateway: the only reader of the environment.

Order: arguments > environment (`PENSTOCK_*`) > secret files > `penstock.yaml`. Unknown names are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)


class Settings(BaseSettings):
    """Where things are and how often the ticks run. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="forbid", secrets_dir=None)

    home: Path = Field(default=Path(".penstock"), description="Folder of the database, the master key and the logs")
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; default: SQLite in `home`")
    sites_dir: Path | None = Field(default=None, description="Folder of site files; default: `home`/sites")
    master_key_file: Path | None = Field(default=None, description="32 random bytes, outside the database")
    host: str = "127.0.0.1"
    port: int = 8642
    currency: str = "CNY"
    dispatch_s: float = 1.0
    watch_s: float = 2.0
    collect_s: float = 30.0
    facts_s: float = 60.0
    orders_s: float = Field(default=5.0, description="How often centres are told what is to be opened there")
    meters_s: float = Field(default=600.0, description="How often the gateway's meter is compared with the centres'")
    evidence_s: float = Field(default=10.0, description="How often booked things become leaves of the log")
    evidence_origin: str = Field(
        default="", description="The log's name, like `gw.example/log`; default: by gateway id"
    )
    notices_s: float = Field(default=5.0, description="How often notices that wait are sent")
    webhook_url: HttpUrl | None = Field(default=None, description="Where notices are posted; default: nowhere")
    webhook_secret_file: Path | None = Field(
        default=None, description="What signs them; default: `home`/webhook.secret, made where it is missing"
    )
    webhook_timeout_s: float = Field(default=10.0, gt=0, le=60)
    smtp_host: str | None = Field(default=None, description="The server that sends mail to owners; default: no mail")
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_username: str = ""
    smtp_password_file: Path | None = None
    mail_from: str = Field(default="penstock@localhost", pattern=r"^[^\s@]+@[^\s@]+$")
    good_looks: int = Field(default=3, description="Looks at both sources without a trace before a job is lost")
    unknown_wait_s: float = Field(default=5.0, description="First look-up of an unknown submission comes after this")
    dispatch_batch: int = Field(default=100, description="Jobs handed to one site in one batch")
    body_bytes_max: int = 8 * 1024 * 1024
    statement_bytes_max: int = Field(
        default=64 * 1024 * 1024, description="The body of a centre's statement; unpacked it may be four times as long"
    )
    requests_per_minute: int = Field(default=6000, description="Per token; 0 means no limit")
    hub_url: str | None = Field(default=None, description="For workers: the process that agents dial to")
    embedded_worker: bool = Field(default=True, description="Run the ticks in the process that serves HTTP")

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.home / 'penstock.sqlite').absolute()}"

    @property
    def effective_sites_dir(self) -> Path:
        return self.sites_dir or self.home / "sites"

    @property
    def effective_master_key_file(self) -> Path:
        return self.master_key_file or self.home / "master.key"

    @property
    def effective_webhook_secret_file(self) -> Path:
        return self.webhook_secret_file or self.home / "webhook.secret"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=Path("penstock.yaml"))
        return (init_settings, env_settings, file_secret_settings, yaml)
