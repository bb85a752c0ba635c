"""What must not leave this machine: passwords, tokens and keys, known by the name of a file, a name, a value or a URI.

The one detector of the house. Places for results, environments of jobs, packages, notes, logs, rows of the ledger and
errors all ask here.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path, PurePath
from urllib.parse import unquote

# Names ---------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_ENDS = (
    "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "apikey",
    "credential", "credentials", "accesskey", "secretkey", "privatekey", "authkey",
)  # fmt: skip
_SECRET_WORDS = {"pwd", "pat", "jwt", "sas", "pw", "mnemonic", "auth", "authorization", "cookie"}
_KEYS = {
    "api", "access", "account", "admin", "aes", "app", "application", "auth", "bearer", "client", "consumer",
    "deploy", "encryption", "hmac", "host", "jwt", "license", "master", "private", "root", "rsa", "secret",
    "server", "service", "session", "shared", "signing", "ssh", "ssl", "storage", "subscription", "tls", "user",
    "webhook"
}  # fmt: skip
"""Words that make a secret of `key` after them."""
_KINDS = {
    "b64", "base64", "data", "default", "dev", "live", "main", "new", "old", "prod", "production", "staging",
    "test", "value"
}  # fmt: skip
"""Last words that say which of several secrets it is, or in what form."""
_ABOUT = {
    "class", "count", "dir", "enabled", "endpoint", "env", "expires", "expiry", "field", "file", "folder", "format",
    "header", "id", "length", "limit", "lifetime", "mode", "name", "names", "path", "policy", "prompt", "provider",
    "ref", "required", "size", "ttl", "type", "uri", "url", "var", "version"
}  # fmt: skip
"""Last words of names that say something about a secret, and do not hold it."""


def is_secret_name(name: str) -> bool:
    """Whether what bears this name is a secret: `HF_TOKEN`, `dbPassword`, `aws_secret_access_key`, `X-Api-Key`.

    `TOKENIZERS_PARALLELISM`, `max_tokens`, `sort_key` and `RAY_AUTH_TOKEN_PATH` are not.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    while words and (words[-1].isdigit() or words[-1] in _KINDS):
        words.pop()
    if words[-3:] == ["access", "key", "id"]:
        return True
    if not words or words[-1] in _ABOUT:
        return False
    if len(words) > 1 and (words[-1] == "pass" or (words[-2] in _KEYS and words[-1] == "key")):
        return True
    return any(word.endswith(_SECRET_ENDS) for word in words) or (
        words[-1] in _SECRET_WORDS and name not in ("PWD", "OLDPWD")
    )


# Values --------------------------------------------------------------------------------------------------------

_SHAPES = {
    "an AWS key": r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA|AGPA|A3T[A-Z0-9])[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}",
    "a GitLab token": r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent|oas|ffct)-[\w-]{20,}",
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a Slack token": r"xox[abceoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}",
    "a W&B key": r"wandb_v\d_\w{20,}|local-[0-9a-f]{40}",
    "a key of an AI service": r"sk-(?:[a-z]+\d*-)*[\w-]{20,}|(?:gsk|r8|csk|nvapi|pplx|xai|fw|tgp_v1)[_-][\w-]{24,}",
    "a Google key": r"AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "an Azure secret": r"[\w~.-]{3}\dQ~[\w~.-]{31,34}",
    "a JSON web token": r"eyJ[\w-]{8,}\.(?:eyJ)?[\w-]{8,}\.[\w.-]*|eyJ(?:hcGlf|hcGlV|hbGci)[\w-]{20,}",
    "a payment key": r"(?:sk|rk|pk)_(?:live|test)_\w{16,}|whsec_\w{24,}|sq0[a-z]{3}-[\w-]{22,}"
                     r"|shp[a-z]{2}_[0-9a-f]{32}",
    "a package index's token": r"pypi-Ag[\w-]{16,}|npm_[A-Za-z0-9]{36}|rubygems_[0-9a-f]{40,}|dckr_[a-z]{3}_[\w-]{20,}"
                               r"|cio[A-Za-z0-9]{32}",
    "a cloud's token": r"do[opr]_v1_[0-9a-f]{60,}|dapi[0-9a-f]{32}|hv[sbr]\.[\w-]{20,}|[A-Za-z0-9]{14}\.atlasv1\.[\w-]+"
                       r"|tskey-[\w-]{16,}|pscale_[a-z]+_[\w-]{20,}|HRKU-[\w-]{20,}|dp\.[a-z]{2,6}\.\w{30,}",
    "a service's token": r"SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}|(?:SK|AC)[0-9a-f]{32}(?![0-9a-z])"
                         r"|\d{8,10}:AA[\w-]{32,}|NRAK-[A-Z0-9]{27}|PMAK-[\w-]{40,}|ATATT3[\w=-]{40,}|lin_api_\w{30,}"
                         r"|ntn_\w{40,}|figd_[\w-]{30,}|gl(?:sa|c)_\w{20,}|sntry[a-z]_[\w+/=-]{30,}|EAA[A-Z][A-Za-z0-9]{40,}",
    "an age key": r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
}  # fmt: skip
_SHAPE = re.compile(r"(?<![A-Za-z0-9])(?:" + "|".join(f"({shape})" for shape in _SHAPES.values()) + ")")
_CANDIDATE = re.compile(r"[A-Za-z0-9_.~:+=-]{20,}")
_PREFIXED = re.compile(r"(?<![A-Za-z0-9_-])[a-z][a-z0-9]{1,9}(?:[_-][a-z0-9]{1,6}){0,2}[_-]([A-Za-z0-9]{24,})(?![\w-])")
"""A word before random characters, as most services make their tokens now."""
_WHOLE = {
    "a private key": re.compile(
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?=[\s\\\"'rn|]*[A-Za-z0-9+/]{4})"
        r"|---- BEGIN SSH2 ENCRYPTED[ ]PRIVATE|PuTTY-User-Key-File-\d"
        r"|LS0tLS1CRUdJTi(?!BDRVJU|BQVUJM|BUUlVTVEVE|BYNTA5)[A-Za-z0-9+/]{8}"  # the same in base64
        r"|untrusted comment: (?:minisign|rsign|signify) encrypted secret key"
    ),
    "a Google service account": re.compile(r"""["']type["']\s*:\s*["'](?:service_account|authorized_user)["']"""),
    "a webhook": re.compile(
        r"hooks\.slack\.com/(?:services|workflows)/T\w+/\w+/\w+|discord(?:app)?\.com/api/webhooks/\d+/[\w-]{30,}"
        r"|webhook\.office\.com/webhookb2/[\w@-]{36,}"
    ),
    "a password's hash": re.compile(r"\$(?:apr1|2[abxy]|5|6|y|argon2id?)\$[^\s:'\"]{20,}"),
    "a password of netrc": re.compile(r"\blogin\s+\S+\s+password\s+(\S+)"),
    "a password on a command line": re.compile(
        r"\b(?:curl|wget|http)\s[^\n]*?(?:-u|--user)[ =]['\"]?[^\s:$]+:([^\s$'\"]+)"
    ),
    "an authorization": re.compile(
        r"(?i)\bauthorization['\"]?\s*[:=,]\s*['\"]?(?:bearer|basic|token|digest|apikey)\s+([\w+/.~=-]{6,})"
    ),
    "a bearer's token": re.compile(r"(?i)\bbearer\s+(?=\S*\d)([\w+/.~=-]{16,})"),
}
_ASSIGNED = re.compile(
    r"(?P<flag>--?)?(?P<name>[A-Za-z_][\w.-]*)(?P<sign>[\"'\]]*[ \t]*(?:=>|:=|=|:)[ \t]*|[ \t]+)"
    r"(?P<value>[rbuf]{0,2}\"[^\"\n]*\"|[rbuf]{0,2}'[^'\n]*'|[^\s\"',;&<>)}\]]+)"
)
_HINT = re.compile(r"(?i)token|secret|pass|credential|key|pwd|pat|jwt|sas|pw|mnemonic|auth|cookie")
"""Something of this stands in every name of a secret."""
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s\"<>]*)")
_QUERY = re.compile(r"(?P<name>[\w.%-]+)=(?P<value>[^&;\s'\",)]+)")
_QUERY_SECRETS = {
    "sig", "signature", "sas", "pass", "pwd", "auth", "x-amz-credential", "awsaccesskeyid", "googleaccessid"
}  # fmt: skip
_NAMED = {"abfs", "abfss", "wasb", "wasbs", "hdfs", "viewfs", "gs", "gcs", "ssh", "git+ssh", "svn+ssh", "sftp", "scp",
          "rsync", "ftp", "git", "jdbc"}  # fmt: skip
"""Schemes whose userinfo without a colon is the name of a user or of a container."""
_PORTLESS = {"s3", "s3a", "s3n", "gs", "gcs"}
_PLACEHOLDER = re.compile(
    r".*(?:\.\.\.|…|\*\*\*).*|[*x.•_-]*|[<$%!{[].*|os\.env\S*|ENC\[.*"
    r"|(?:your|my|some|the|an?|test|dummy|fake|example|placeholder)(?:[-_ ].*)?"
    r"|none|null|nil|true|false|required|optional|str|string|int|bool|bytes|any|undefined|self|default",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Secret:
    """Where in a text a secret stands, and of what kind it is; never the secret itself."""

    start: int
    end: int
    kind: str


def is_opaque(text: str) -> bool:
    """Whether a part of a value looks drawn at random: 16 letters of both cases and digits, or 32 hexadecimal ones."""
    for part in re.split(r"[^A-Za-z0-9+]+", text):
        if len(part) >= 32 and re.fullmatch(r"(?=\d*[a-f])[0-9a-f]+|(?=\d*[A-F])[0-9A-F]+", part):
            return True
        mixed = all(re.search(kind, part) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
        if mixed and len(part) >= 16 and len(set(part)) >= 10 and not re.search("[a-z]{8}", part):
            return True
    return False


def find_secrets(text: str, example: bool = False, code: bool = False) -> Iterator[Secret]:
    """The secrets of a text, in no order; some may overlap.

    Args:
        text: A value, a message or the content of a file.
        example: Leave out what can only be an example, such as `token=YOUR_TOKEN` or `s3://KEY:SECRET@bucket`.
        code: A name is given a secret in quotes only; what is not quoted is an expression.
    """
    for word in _CANDIDATE.finditer(text):
        for match in _SHAPE.finditer(word[0]):
            if example and text[word.start() + match.end() :][:1] in ("…", "*"):
                continue
            kind = list(_SHAPES)[int(match.lastindex or 1) - 1]
            yield Secret(word.start() + match.start(), word.start() + match.end(), kind)
        for match in _PREFIXED.finditer(word[0]):
            if is_opaque(match[1]) and not re.fullmatch("[0-9a-f]+", match[1]):
                yield Secret(word.start() + match.start(), word.start() + match.end(), "a token")
    for kind, pattern in _WHOLE.items():
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            if not (example and group and match[group] and _is_example(match[group])):
                yield Secret(*match.span(group), kind)
    yield from _secrets_of_uris(text, example)
    yield from _assigned(text, example, code)


def _secrets_of_uris(text: str, example: bool, offset: int = 0) -> Iterator[Secret]:
    for match in _URI.finditer(text):
        scheme, rest, start = match["scheme"].lower().split("+")[-1], match["rest"], offset + match.start("rest")
        whole = match["scheme"].lower()
        ends = re.search(r"[/?#]", rest)
        authority = rest[: ends.start()] if ends else rest
        user, at, _ = authority.rpartition("@")
        if not at and ":" in authority and "@" in rest and not authority.endswith("]"):
            port = authority.rpartition(":")[2]
            if scheme in _PORTLESS or not re.fullmatch(r"\d{0,5}", port):  # the password holds a slash
                user, at, _ = rest.rpartition("@")
        plain = ":" not in user and (user in ("", "git", "hg", "anonymous") or whole in _NAMED or scheme in _NAMED)
        if at and (not plain or is_opaque(user)) and not (example and _is_example(user.partition(":")[2] or user)):
            yield Secret(start, start + len(user), "a password in a URI")
        for part in _QUERY.finditer(rest):
            name, value = part["name"], part["value"]
            known = name.lower() in _QUERY_SECRETS or name.lower().endswith("-signature") or is_secret_name(name)
            random = name.lower() in ("key", "code") and is_opaque(value)
            if (known or random) and not (example and _is_example(value)):
                yield Secret(start + part.start("value"), start + part.end("value"), f"the value of {name}")
        if "://" in rest:
            yield from _secrets_of_uris(rest, example, start)


def _is_example(value: str) -> bool:
    """Whether a value only stands for one: `YOUR_TOKEN`, `${TOKEN}`, `{token}`, `<token>`, `hf_...`."""
    return bool(_PLACEHOLDER.fullmatch(value) or re.fullmatch(r"[A-Z][A-Z_. -]*", value) or re.search(r"[{$<]", value))


def _assigned(text: str, example: bool, code: bool) -> Iterator[Secret]:
    end = 0
    while hint := _HINT.search(text, end):
        start = text.rfind("\n", 0, hint.start()) + 1
        end = text.find("\n", hint.end())
        end = len(text) if end < 0 else end
        at = start
        while match := _ASSIGNED.search(text, at, end):
            at = max(match.start("value"), match.start() + 1)  # the value may be the next name
            secret = _assignment(match, example, code) if is_secret_name(match["name"]) else None
            if secret is not None:
                yield secret


def _assignment(match: re.Match[str], example: bool, code: bool) -> Secret | None:
    """The value that a secret's name is given, if it is one."""
    sign, value = match["sign"], match["value"]
    quoted = value[-1] in "\"'"
    bare = value.lstrip("rbuf")[1:-1] if quoted else value
    if not sign.strip() and not (match["flag"] and len(bare) > 3 and not bare.startswith("-")):
        return None  # words of a sentence
    if not bare or bare.startswith("***"):
        return None
    if example and (_is_example(bare) or bare.startswith(("/", "~", "./", "vault:", "arn:"))):
        return None
    tight = sign.strip("\"' ") == "="
    likely = bool(re.search(r"\d|[^\w. -]", bare)) and len(bare) >= 6 and " " not in bare
    if code:
        given = quoted and likely and "f" not in value[: value.index(value[-1])]
    else:
        given = likely or quoted or (tight and (len(bare) > 3 or not example))
    start = match.start("value") + (len(value) - len(bare) - 1 if quoted else 0)
    return Secret(start, start + len(bare), f"the value of {match['name']}") if given else None


def redact(text: str) -> str:
    """`text` with `***` for every secret in it: `s3://***@bucket`, `?sig=***`, `token=***`."""
    spans = sorted((secret.start, secret.end) for secret in find_secrets(text))
    pieces, at = [], 0
    for start, end in spans:
        if end <= at:
            continue
        if start >= at:
            pieces += [text[at:start], "***"]
        at = end
    return "".join([*pieces, text[at:]])


def secret_of_value(text: str) -> str | None:
    """Of what kind the first secret in a value is, percent-encoded or not; None: there is none."""
    for said in (text, unquote(text)):
        first = min(find_secrets(said), key=lambda secret: secret.start, default=None)
        if first:
            return first.kind
    return None


# Files ---------------------------------------------------------------------------------------------------------

_FILES = (
    ".netrc", "_netrc", ".git-credentials", ".npmrc", ".pypirc", ".pgpass", "pgpass.conf", ".my.cnf",
    ".mylogin.cnf", ".htpasswd", "htpasswd", ".htdigest", ".dockercfg", ".docker/config.json", ".dockerconfigjson",
    "kubeconfig*", "*.kubeconfig", ".kube/*", ".vault-token", ".vault_pass*", "vault_pass*", ".s3cfg", ".boto",
    ".passwd-s3fs", "rclone.conf", ".rclone.conf", ".terraformrc", "terraform.tfstate*", "*.tfstate", "*.tfvars",
    "*.tfvars.json", ".env", ".env.*", "*.env", ".envrc", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "id_xmss*", "identity", "ssh_host_*_key", ".ssh/*", ".gnupg/*", ".aws/*", ".azure/*", ".gcloud/*", ".oci/*",
    ".kaggle/*", ".password-store/*", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.p8", "*.pk8", "*.jks",
    "*.jceks", "*.bks", "*.keystore", "*.gpg", "*.pgp", "*.kdb", "*.kdbx", "*.agilekeychain", "*.opvault",
    "*.keychain", "*.keychain-db", "*.keytab", "krb5cc_*", "*.ovpn", "*.age", "*.secret", "*.secrets", "*.token",
    "*.password", "*.passwd", "*.credentials", "*.cred", "*.creds", "*_history", ".*hist", "kaggle.json",
    "client_secret*.json", "service[-_]account*.json", "*serviceaccount*.json", "application_default_credentials*",
    "*credential*.db", "accesstokens.json", "msal_token_cache*", ".databrickscfg", ".snowsql/config",
    ".snowflake/*", ".config/gh/hosts.yml", "gh/hosts.yml", ".config/hub", ".gem/*", ".cargo/credentials*",
    "wallet.dat", "sftp-config.json", "sftp.json", "filezilla.xml", "recentservers.xml", "sitemanager.xml",
    "settings-security.xml", "logins.json", "key3.db", "key4.db", "cookies", "cookies.sqlite", "cookies.txt",
    "shadow", "gshadow", "master.key", "auth_token", "*auth.json", "token", "token.json", "token.txt", "tokens.txt",
    "*_token", "*-token", "*_token.txt", "*_token.json", ".netlify/config.json", ".wandb/settings", "*.rdp",
    "*.mobileprovision", "*.wallet", "*.tok",
)  # fmt: skip
_STEM = re.compile(
    r"(?:.*[^a-z])?(?:secret|secrets|credential|credentials|creds|password|passwords|passwd|passphrase|api_?keys?)(?:[^a-z].*)?"
)
_DATA = {
    "", ".json", ".jsonc", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".config", ".txt", ".csv", ".xml",
    ".properties", ".plist", ".enc", ".dat", ".db", ".sqlite", ".xlsx", ".docx", ".local", ".prod", ".dev"
}  # fmt: skip
_SAVED = re.compile(r"(?:~|\.(?:bak|old|orig|save|saved|backup|copy|swp|tmp|gz|zip|\d+))+$")
_CODE = {
    ".py", ".pyi", ".ipynb", ".js", ".ts", ".java", ".go", ".rs", ".c", ".h", ".cpp", ".rb", ".php", ".md", ".rst",
    ".html", ".css", ".tex", ".svg", ".r", ".jl", ".scala", ".kt", ".cs", ".lua", ".sql"
}  # fmt: skip
_EXAMPLES = ("*.example", "*.sample", "*.template", "*.tmpl", "*.dist", "*.pub", "*example.env", "*sample.env",
             "*.example.*", "*.sample.*", "*.template.*")  # fmt: skip
_LARGEST = 64 * 2**20


def secret_of_file(path: str | PurePath) -> str | None:
    """Of what kind the secret is that a file of this name holds by custom; None: such files are as a rule none."""
    parts = PurePath(str(path).lower()).parts
    names = [parts[-1], _SAVED.sub("", parts[-1])]
    if any(fnmatch(names[-1], pattern) for pattern in _EXAMPLES):
        return None
    tails = ["/".join((*parts[at:-1], name)) for at in range(len(parts)) for name in names]
    stem, dot, ending = names[-1].rpartition(".")
    data = f".{ending}" in _DATA if dot and stem else True
    by_stem = data and _STEM.fullmatch(stem if dot and stem else names[-1])
    if by_stem or any(fnmatch(tail, pattern) for tail in tails for pattern in _FILES):
        return "keys, passwords or tokens, by its name"
    return None


def secret_in_file(path: Path, name: str | PurePath) -> str | None:
    """What secret a file holds by its name or its content, archives included, and in which line; None: none was found.

    Raises:
        OSError: it cannot be read.
    """
    if kind := secret_of_file(name):
        return kind
    if path.stat().st_size > _LARGEST:  # weights and data; what is sent is limited in size
        return None
    return _secret_in(path.read_bytes(), str(name))


def secret_in_text(text: str, name: str | PurePath) -> str | None:
    """The same of a text that is the content of a file of that name."""
    return secret_of_file(name) or _secret_in(text.encode(), str(name))


def _secret_in(data: bytes, name: str, depth: int = 0) -> str | None:
    for member, content in _members(data, name) if depth < 3 else ():
        if kind := secret_of_file(member) or _secret_in(content, member, depth + 1):
            return f"{kind} ({member} in it)"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    elif b"\0" in data[:4096]:  # binary: what stands in it by itself, or random bytes would be taken for values
        text = "\n".join(run.decode() for run in re.findall(rb"[\x20-\x7e]{20,}", data))
        shapes = (secret.kind for secret in find_secrets(text, True, True) if secret.kind in {**_SHAPES, **_WHOLE})
        return next(shapes, None)
    else:
        text = data.decode("utf-8", "replace")
    code = PurePath(name).suffix.lower() in _CODE
    first = min(find_secrets(text, True, code), key=lambda secret: secret.start, default=None)
    return None if first is None else f"{first.kind}, in line {text.count(chr(10), 0, first.start) + 1}"


_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def _members(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the files in a zip or tar archive or a compressed file; nothing for any other."""
    try:
        for magic, opened in _PACKED.items():
            if data.startswith(magic):
                with opened(BytesIO(data)) as file:
                    yield PurePath(name).stem, file.read(_LARGEST)
        if data[:4] == b"PK\3\4":
            with zipfile.ZipFile(BytesIO(data)) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir() and entry.file_size <= _LARGEST:
                        yield entry.filename, archive.read(entry)
        if data[257:262] == b"ustar":
            with tarfile.open(fileobj=BytesIO(data)) as archive:
                for entry in archive:
                    file = archive.extractfile(entry) if entry.isfile() and entry.size <= _LARGEST else None
                    if file:
                        yield entry.name, file.read()
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, OSError, EOFError, RuntimeError, zlib.error):
        return  # damaged, or encrypted
