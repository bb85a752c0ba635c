"""What is a secret, by name, by value and in files, and what is none.

No secret stands in this file as a whole: each is put together, so that the file itself may be sent.
"""

from __future__ import annotations

import base64
import gzip
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from automixsearch.errors import SpecError
from automixsearch.secrecy import is_secret_name, redact, secret_in_file, secret_of_value

ROOT = Path(__file__).parents[1]
RANDOM = "Zk3qT9vXb7Lm2Rw8Yc5Nd4Hs6Jf1Gp0Ka"  # 34 characters
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"
LONG = RANDOM * 3
WORD = "hunter2!x"
BASIC = base64.b64encode(b"user:hunter2").decode()
PEM = "-----BEGIN {} KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END {} KEY-----\n"


def pem(kind: str) -> str:
    return PEM.format(kind, kind)


NAMES = [
    ".netrc", "_netrc", ".git-credentials", ".npmrc", ".pypirc", ".pgpass", ".my.cnf", ".htpasswd", ".dockercfg",
    ".docker/config.json", "kubeconfig", "prod.kubeconfig", ".kube/config", ".vault-token", ".s3cfg", ".boto",
    "rclone.conf", "terraform.tfstate", "prod.tfvars", ".env", ".env.local", "prod.env", ".envrc", "id_rsa",
    "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519.bak", "ssh_host_rsa_key", ".ssh/work",
    ".gnupg/secring.gpg", ".aws/credentials", ".azure/msal.json", "SERVER.PEM", "server.key", "putty.ppk", "a.p12",
    "a.pfx", "AuthKey_X.p8", "a.jks", "release.keystore", "vault.kdbx", "passwords.kdb", "me.keytab", "client.ovpn",
    "app.secret", ".bash_history", ".python_history", "kaggle.json", "client_secret_1.json", "service-account.json",
    "my-serviceaccount.json", "application_default_credentials.json", ".databrickscfg", ".snowsql/config",
    ".config/gh/hosts.yml", ".cargo/credentials.toml", "wallet.dat", "sftp-config.json", "logins.json",
    "cookies.sqlite", "auth_token", "credentials.json", "credentials", "aws_credentials.csv", "secrets.yaml",
    "secrets.toml", ".streamlit/secrets.toml", "db-password.txt", "passwords.xlsx", "api_keys.json", "token.json",
    "hf_token", "deploy-token", "server.key.old", ".env.production~", "conf/prod.env.1",
]  # fmt: skip


CONTENTS = {
    "a.cfg": f"[x]\npassword = {WORD}\n",
    "b.yaml": f"db:\n  password: {WORD}\n",
    "c.json": f'{{"api_key": "{WORD}"}}',
    "d.sh": f"export WANDB_API_KEY={HEX}\n",
    "e.py": f'client = connect(token="{WORD}")\n',
    "f.py": f"PASSWORD = '{WORD}'\n",
    "g.toml": f'secret_key = "{WORD}"\n',
    "h.properties": f"spring.datasource.password={WORD}\n",
    "i.txt": "AK" + "IAIOSFODNN7EXAMPLE\n",
    "j.txt": "AS" + f"IA{'Q' * 16}\n",
    "k.md": f"use gh{'p_'}{RANDOM}\n",
    "l.md": f"use github{'_pat_'}{LONG[:60]}\n",
    "m.py": f"x = 'hf{'_'}{RANDOM}'\n",
    "n.txt": f"xox{'b-'}1234567890-{RANDOM}\n",
    "o.txt": f"glp{'at-'}{RANDOM[:20]}\n",
    "p.txt": f"ey{'J'}hbGciOiJIUzI1NiJ9.ey{'J'}zdWIiOiIxMjM0In0.{RANDOM}\n",
    "q.ini": f"url = https://x.blob.core.windows.net/c?sv=1&si{'g='}{RANDOM}%3D\n",
    "r.json": '{"type": "service' + '_account", "project_id": "x"}',
    "s.txt": pem("RSA PRIVATE"),
    "t.txt": pem("OPENSSH PRIVATE"),
    "u.txt": pem("EC PRIVATE"),
    "v.txt": pem("ENCRYPTED PRIVATE"),
    "w.py": "KEY = '''" + pem("PRIVATE") + "'''\n",
    "x.txt": "-----BEGIN PGP PRIVATE" + " KEY BLOCK-----\n\nlQOYBF\n",
    "y.yaml": f"client-key-data: {base64.b64encode(pem('RSA PRIVATE').encode()).decode()}\n",
    "z.txt": f"machine github.com\n  login me\n  password {WORD}\n",
    "aa.cfg": f"index-url = https://{BASIC}@pypi.example.com/simple\n",
    "ab.cfg": f"url = https://x-access-{'to'}ken:{WORD}@github.com/o/r\n",
    "ac.md": f"pip install --extra-index-url https://{RANDOM}@host/simple x\n",
    "ad.txt": f"redis://:{WORD}@host:6379/0\n",
    "ae.txt": f"postgresql+psycopg2://me:{WORD}@db/x\n",
    "af.txt": f"s3://AKEXAMPLE1:se/cr3t/{HEX}@bucket/runs\n",
    "ag.txt": f"mongodb+srv://me:p@ss{WORD}@cluster/x\n",
    "ah.txt": f"sk-proj{'-'}{RANDOM}\n",
    "ai.txt": f"sk-ant{'-'}api03-{RANDOM}\n",
    "aj.txt": f"AIz{'a'}{RANDOM}x\n",
    "ak.txt": f"npm{'_'}{RANDOM}ab\n",
    "al.txt": f"pypi{'-Ag'}EIcHlwaS5vcmcC{RANDOM}\n",
    "am.txt": f"dckr{'_pat_'}{RANDOM}\n",
    "an.txt": f"dapi{HEX[:32]}\n",
    "ao.txt": f"hv{'s.'}{RANDOM}\n",
    "ap.txt": f"S{'G.'}{RANDOM[:22]}.{RANDOM}\n",
    "aq.txt": f"sk{'_live_'}{RANDOM}\n",
    "ar.txt": f"12345678:A{'A'}{RANDOM}\n",
    "as.txt": f"https://hooks.slack{'.com/services/'}T0AB/B0AB/{RANDOM}\n",
    "at.txt": f"https://discord{'.com/api/webhooks/'}123/{LONG}\n",
    "au.txt": f"dop{'_v1_'}{HEX}{HEX}\n",
    "av.txt": f"wandb{'_v1_'}{RANDOM}\n",
    "aw.txt": f"newvendor{'_'}{RANDOM}\n",
    "ax.txt": f"zed_live{'-'}{RANDOM}\n",
    "ay.txt": "AGE-SECRET" + f"-KEY-1{'Q' * 50}\n",
    "az.txt": f"me:$apr1${RANDOM}\n",
    "ba.sh": f"curl -u me:{WORD} https://x\n",
    "bb.sh": f"curl -H 'Authorization: Bearer {RANDOM}' https://x\n",
    "bc.txt": f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={RANDOM}==;EndpointSuffix=x\n",
    "bd.ipynb": f'{{"cells": [{{"source": ["HF = \\"hf{"_"}{RANDOM}\\"\\n"]}}]}}',
    "be.yaml": f"env:\n  - name: X\n    value: gh{'o_'}{RANDOM}ab\n",
    "bf.env.example": f"X=hf{'_'}{RANDOM}\n",
    "bg.xml": f"<server><x>1</x></server>\n<!-- password: {WORD} -->\n",
    "bh.npm": f"//registry.npmjs.org/:_auth{'Token='}{WORD}\n",
    "bi.sh": f"mysql --password={WORD}\n",
    "bj.sh": f"deploy --api-token {WORD}\n",
    "bk.tf": f'access_key = "{WORD}"\n',
    "bl.txt": f"GOCSPX{'-'}{RANDOM}\n",
    "bm.txt": f"EAA{'C'}{LONG}\n",
}  # fmt: skip


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("pkg/settings.txt", f"ghp{'_'}{RANDOM}ab")
        return out.getvalue()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("home/.netrc"), io.BytesIO())
    return out.getvalue()


BINARY = {
    "wheel.zip": archive("zip"),
    "home.tgz": archive("tar"),
    "utf16.txt": f"password: {WORD}".encode("utf-16"),
    "state.pickle": b"\x80\4\0\0" + f"hf{'_'}{RANDOM}".encode() + b"\0",
    "settings.txt.gz": gzip.compress(f"password: {WORD}".encode()),
}


def planted() -> dict[str, bytes]:
    return {name: b"x" for name in NAMES} | {name: text.encode() for name, text in CONTENTS.items()} | BINARY


def test_no_planted_secret_leaves_a_checkout_that_tracks_it(tmp_path):
    from automixsearch.cluster import jobs

    secrets = planted()
    assert len(secrets) >= 120
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    sent = []
    for name, content in secrets.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", "."], check=True)
    tracked, _ = jobs.files_to_send(tmp_path, None, [])
    assert {str(file) for file in tracked} == set(secrets)
    for file in tracked:
        kind = secret_in_file(tmp_path / file, file)
        if kind is None:
            sent.append(str(file))
        assert not any(word in str(kind) for word in (WORD, RANDOM, HEX))
    assert sent == []


def test_no_file_of_this_repository_is_taken_for_a_secret():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [Path(name) for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 300
    found = {str(file): kind for file in files if (kind := secret_in_file(ROOT / file, file))}
    assert found == {}


HARMLESS = {
    "secrets.py": "import secrets\ntoken = secrets.token_hex(32)\n",
    "token.py": "class Token:\n    password: str = ''\n",
    "tokenizer.json": '{"added_tokens": [{"id": 0, "content": "<pad>"}]}',
    "special_tokens_map.json": '{"pad_token": "<pad>"}',
    ".env.example": "HF_TOKEN=\nDB_PASSWORD=your-password-here\nAPI_KEY=${API_KEY}\n",
    "key.pub": "ssh-rsa AAAAB3NzaC1yc2E me@x\n",
    "values.yaml": "secretName: my-token\npasswordSecretRef: {name: db}\ntoken: ${TOKEN}\nauthTokenPath: /run/x\n",
    "a.py": "login(token=os.environ['HF_TOKEN'], password=args.password)\nkey = 'val_top1'\nsort_key = 'b2'\n",
    "b.md": "Set `s3://KEY:SECRET@bucket`, `token=YOUR_TOKEN` or `hf_...` and pip install git+https://git@github.com/o/r\n",
    "requirements.txt": f"x @ git+https://github.com/o/r@{HEX}\ny==1 --hash=sha256:{HEX}{HEX[:24]}\n",
    "lock.json": '{"integrity": "sha512-' + "Zk3q/T9vXb7Lm2Rw8Yc5Nd4H" * 3 + '=="}',
    "ca.crt": "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
    "image.svg": '<image href="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA"/>',
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_file_is_none(tmp_path, name):
    (tmp_path / name).write_text(HARMLESS[name])
    assert secret_in_file(tmp_path / name, name) is None


@pytest.mark.parametrize(("name", "secret"), [
    ("HF_TOKEN", True), ("dbPassword", True), ("aws_secret_access_key", True), ("AWS_ACCESS_KEY_ID", True),
    ("X-Api-Key", True), ("MYTOKEN", True), ("DB_PASS", True), ("PROD_PASSWORD_2", True), ("client_secret", True),
    ("AccountKey", True), ("SENTRY_AUTH", True), ("TOKENIZERS_PARALLELISM", False), ("max_tokens", False),
    ("PWD", False),
    ("sort_key", False),
    ("RAY_AUTH_TOKEN_PATH", False), ("NCCL_DEBUG", False), ("bypass", False), ("monkey", False),
    ("author", False), ("secretName", False),
])  # fmt: skip
def test_names_of_secrets(name, secret):
    assert is_secret_name(name) is secret


@pytest.mark.parametrize(("text", "shown"), [
    (f"https://{'TO'}KEN@host/x", "https://***@host/x"),
    (f"s3://AKEX:{'hunt'}/er2@bucket/runs", "s3://***@bucket/runs"),
    (f"s3://AKEX:{'p'}@ss@bucket/runs", "s3://***@bucket/runs"),
    (f"https://me:{'pw'}@host/a@b", "https://***@host/a@b"),
    (f"https://h/c?sv=1&sig={'Ab'}%2Bc&se=2", "https://h/c?sv=1&sig=***&se=2"),
    (f"s3://b/k?X-Amz-Signature={'abc'}&X-Amz-Date=1", "s3://b/k?X-Amz-Signature=***&X-Amz-Date=1"),
    (f"s3://b/r?endpoint_override=http://me:{'pw'}@h:1&region=r", "s3://b/r?endpoint_override=http://***@h:1&region=r"),
    ("token=abc, password: 'x y'", "token=***, password: '***'"),
    ("{'api_key': 'abc', 'width': 4}", "{'api_key': '***', 'width': 4}"),
    (f"Authorization: Bearer {RANDOM}", "Authorization: Bearer ***"),
    (f"no access for hf{'_'}{RANDOM}.", "no access for ***."),
])  # fmt: skip
def test_secrets_of_messages_are_blotted_out_and_nothing_else(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown
    assert secret_of_value(text)


@pytest.mark.parametrize("text", [
    "http://127.0.0.1:8265/a@b", "abfss://container@account.dfs.core.windows.net/x", "ssh://git@github.com/o/r",
    "hdfs://me@host:8020/x", "gs://anonymous@bucket/x", "s3://bucket/a:b@c", "gs://tokens/x=1",
    "put the cluster's token into ~/.ray/auth_token (or RAY_AUTH_TOKEN)", "mixup alpha=0.2 + decoupled eta=0.01",
    "the password is wrong", "wrong token: try again", "http://[::1]:8265/x@y", "data.path=/mnt/a:b@c", "see a@b.org",
])  # fmt: skip
def test_messages_without_secrets_stay_as_they_are(text):
    assert redact(text) == text
    assert secret_of_value(text) is None


def test_a_secret_that_is_percent_encoded_is_one():
    assert secret_of_value("s3://b/r?endpoint_override=http%3A%2F%2Fme%3Apw%40host") == "a password in a URI"


def test_an_error_of_ours_never_repeats_a_secret():
    assert str(SpecError(f"cannot open s3://me:{WORD}@bucket")) == "cannot open s3://***@bucket"
