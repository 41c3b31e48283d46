"""What differs between centres of one dialect: parts of a site file (config.py), and the words they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator


def _beside(path: Path, info: ValidationInfo) -> Path:
    """File names are relative to the site file's folder."""
    folder: Path | None = (info.context or {}).get("folder")
    return path if folder is None else folder / path.expanduser()


Login = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9._-]{0,63}$")]
File = Annotated[Path, AfterValidator(_beside)]


class Strict(BaseModel):
    """Unknown words are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PbsConfig(Strict):
    """What differs between centres with PBS Pro, OpenPBS or Torque."""

    flavour: Literal["openpbs", "torque"] = "openpbs"
    name_max: int = Field(default=230, ge=1, le=236, description="Longest job name; older servers take 15")
    direct_write: bool = Field(default=True, description="`-k doe`: PBS has no output of its own to deliver at the end")
    accounting_log: str = Field(
        default="",
        pattern=r"^(/[^\x00\n]*)?$",
        description="Folder of the server's daily logs",
    )
    place: str = Field(default="", pattern=r"^[a-z:=]*$", description="Placement where a job names none: scatter")


class ChipConfig(Strict):
    """A Sunway chip: SW26010 has 4 core groups of 1 + 64 cores, SW39000 has 6."""

    cgs_per_node: int = Field(default=4, ge=1, le=64)
    cores_per_cg: int = Field(default=65, ge=1, le=1024)
    share_size_max: int | None = Field(default=None, ge=1, description="Largest -share_size, in MB")


class SunwayConfig(Strict):
    """What differs between Sunway centres; `defaults` are options of bsub for jobs that do not name them."""

    mode: Literal["script", "direct"] = Field(
        default="script", description="direct: the binary itself is handed to bsub; no fence can stand then"
    )
    chip: ChipConfig = ChipConfig()
    defaults: dict[str, str] = Field(
        default_factory=lambda: {"b": "", "cgsp": "64", "share_size": "4096", "host_stack": "128"}
    )
    job_id_variable: str = Field(
        default="LSB_JOBID", pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="Environment variable of a job that holds its id; no public source names it",
    )  # fmt: skip
    refused_roots: tuple[str, ...] = Field(
        default=("/home/export/base",), description="File systems from which bsub submits nothing"
    )


class NorthboundConfig(Strict):
    """A centre that is asked by REST (SCNet's documented API): addresses, the operator's user there, and its keys."""

    url: str = Field(pattern=r"^https?://[^/]+$", description="Address of the computing service, without a path")
    login_url: str = Field(default="", pattern=r"^(https?://[^/]+)?$", description="Where tokens are given; else `url`")
    files_url: str = Field(default="", pattern=r"^(https?://[^/]+)?$", description="The file service; else `url`")
    login: Literal["hmac", "token"] = "hmac"
    user: Login
    access_key_file: File | None = None
    secret_key_file: File | None = None
    token_file: File | None = None
    cluster: str = Field(default="", description="Which of the centre's clusters, by id or name; else the first")
    job_manager_id: str = Field(default="", description="Its scheduler's id; else the first that is shown")
    home: str = Field(pattern=r"^/[^\x00\n]*$", description="Folder of our user there")

    @model_validator(mode="after")
    def _complete(self) -> NorthboundConfig:
        if self.login == "hmac" and not (self.access_key_file and self.secret_key_file):
            raise ValueError("login hmac needs `access_key_file` and `secret_key_file`")
        if self.login == "token" and not self.token_file:
            raise ValueError("login token needs `token_file`")
        return self
