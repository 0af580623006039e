//! The tables. Times are milliseconds since 1970; JSON is text; flags are 0 or 1. The definitions are those
//! of SQLite; `dialect.rs` has the types of PostgreSQL.
//!
//! A released migration is never changed: a change is a new migration at the end.

/// The application id of our databases.
pub(super) const APPLICATION: i64 = 0x7372_6370;

/// The migrations from an empty database; their number is the schema's version.
pub(super) const MIGRATIONS: &[&str] =
    &[FIRST, LOST, REUSE, PARTIAL, PRESENCE, PLACEMENT, TOKENS, HEALTH, SEALED, STAGED];

/// `jobs.status`: queued → running → completed | failed | cancelled; a lost attempt leads back
/// from running to queued. `attempts.state`: live → ended | lost.
const FIRST: &str = "
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL UNIQUE,
    submission_key TEXT UNIQUE,
    fingerprint BLOB NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    agent TEXT NOT NULL,
    profile TEXT,
    prompt TEXT NOT NULL,
    environment TEXT NOT NULL,
    context TEXT NOT NULL,
    has_secrets INTEGER NOT NULL,
    timeout INTEGER,
    resumed TEXT,
    session TEXT,
    created INTEGER NOT NULL,
    started INTEGER,
    finished INTEGER,
    cancelled INTEGER,
    timed_out INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    error TEXT,
    last_sequence INTEGER
) STRICT;
CREATE INDEX open_jobs ON jobs (status, id) WHERE status IN ('queued', 'running');

CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    runner TEXT,
    generation INTEGER NOT NULL,
    claim_request TEXT,
    nonce BLOB NOT NULL,
    token_hash BLOB NOT NULL UNIQUE,
    claimed INTEGER NOT NULL,
    ended INTEGER,
    events INTEGER NOT NULL DEFAULT 0,
    last_event INTEGER NOT NULL DEFAULT -1,
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    uploaded_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    received INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (job, position)
) STRICT;
CREATE UNIQUE INDEX event_sequences ON events (job, attempt, sequence);

CREATE TABLE telemetry (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    received INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (job, position)
) STRICT;

CREATE TABLE storages (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    storage TEXT NOT NULL REFERENCES storages,
    version TEXT NOT NULL,
    content TEXT NOT NULL,
    archive TEXT NOT NULL,
    archive_size INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    files INTEGER NOT NULL,
    parent TEXT,
    message TEXT,
    created INTEGER NOT NULL,
    PRIMARY KEY (storage, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX version_archives ON versions (archive);
CREATE INDEX version_manifests ON versions (manifest);

CREATE TABLE uploads (
    owner TEXT NOT NULL,
    storage TEXT NOT NULL REFERENCES storages,
    version TEXT NOT NULL,
    content TEXT NOT NULL,
    archive TEXT,
    archive_size INTEGER,
    manifest TEXT,
    created INTEGER NOT NULL,
    PRIMARY KEY (owner, storage, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE mounts (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    name TEXT NOT NULL,
    storage TEXT NOT NULL,
    version TEXT NOT NULL,
    mount_path TEXT NOT NULL,
    PRIMARY KEY (job, name),
    FOREIGN KEY (storage, version) REFERENCES versions
) STRICT, WITHOUT ROWID;

CREATE INDEX mounted_versions ON mounts (storage, version);

CREATE TABLE histories (
    hash TEXT PRIMARY KEY,
    encoding TEXT NOT NULL,
    raw_size INTEGER NOT NULL,
    blob TEXT NOT NULL,
    encoded_size INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX history_blobs ON histories (blob);

CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    agent TEXT NOT NULL,
    session TEXT NOT NULL,
    history TEXT NOT NULL REFERENCES histories,
    created INTEGER NOT NULL,
    UNIQUE (job, attempt)
) STRICT, WITHOUT ROWID;

CREATE INDEX checkpoint_histories ON checkpoints (history);

CREATE TABLE snapshots (
    checkpoint TEXT NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    name TEXT NOT NULL,
    storage TEXT NOT NULL,
    version TEXT NOT NULL,
    mount_path TEXT NOT NULL,
    PRIMARY KEY (checkpoint, name),
    FOREIGN KEY (storage, version) REFERENCES versions
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_versions ON snapshots (storage, version);
";

/// For the runners' lists of lost attempts.
const LOST: &str = "CREATE INDEX lost_attempts ON attempts (ended) WHERE state = 'lost';";

/// All jobs of a session have the same reuse key. That of a job from before this migration is its
/// run.
const REUSE: &str = "ALTER TABLE jobs ADD COLUMN reuse_key TEXT;";

/// A partial checkpoint may have no session. SQLite cannot drop NOT NULL, so both tables are rebuilt.
/// The new `snapshots` references the new `checkpoints`, and follows its renaming.
const PARTIAL: &str = "
CREATE TABLE new_checkpoints (
    id TEXT PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    agent TEXT NOT NULL,
    session TEXT,
    history TEXT REFERENCES histories,
    created INTEGER NOT NULL,
    is_partial INTEGER NOT NULL DEFAULT 0,
    UNIQUE (job, attempt)
) STRICT, WITHOUT ROWID;
INSERT INTO new_checkpoints (id, job, attempt, agent, session, history, created)
    SELECT id, job, attempt, agent, session, history, created FROM checkpoints;

CREATE TABLE new_snapshots (
    checkpoint TEXT NOT NULL REFERENCES new_checkpoints ON DELETE CASCADE,
    name TEXT NOT NULL,
    storage TEXT NOT NULL,
    version TEXT NOT NULL,
    mount_path TEXT NOT NULL,
    PRIMARY KEY (checkpoint, name),
    FOREIGN KEY (storage, version) REFERENCES versions
) STRICT, WITHOUT ROWID;
INSERT INTO new_snapshots SELECT checkpoint, name, storage, version, mount_path FROM snapshots;

DROP TABLE snapshots;
DROP TABLE checkpoints;
ALTER TABLE new_checkpoints RENAME TO checkpoints;
ALTER TABLE new_snapshots RENAME TO snapshots;
CREATE INDEX checkpoint_histories ON checkpoints (history);
CREATE INDEX snapshot_versions ON snapshots (storage, version);

CREATE TABLE warnings (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (job, attempt, position)
) STRICT, WITHOUT ROWID;
";

/// `attempts.seen`: the last sign of life. `runners.seen`: the last heartbeat; `present`: the last
/// request; `body`: the heartbeat; `profiles`: those that the process has named. `service`: since when
/// platforms serve without interruption, and when one last wrote that it does. `jobs.offered`: when the
/// job was last offered, and to which runner.
const PRESENCE: &str = "
ALTER TABLE attempts ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
UPDATE attempts SET seen = claimed;

CREATE TABLE runners (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    body TEXT,
    profiles TEXT NOT NULL,
    seen INTEGER NOT NULL,
    present INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE service (
    id INTEGER PRIMARY KEY,
    ticked INTEGER NOT NULL,
    since INTEGER NOT NULL
) STRICT;
INSERT INTO service (id, ticked, since) VALUES (1, 0, 0);

ALTER TABLE jobs ADD COLUMN offered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN offered_to TEXT;
";

/// `jobs.runner_group`: the only group whose runners take the job. `runners.is_open`: whether its last heartbeat
/// said that it takes jobs. `held_sessions`: those whose next job the runner would run in their parked VM now.
const PLACEMENT: &str = "
ALTER TABLE jobs ADD COLUMN runner_group TEXT;
ALTER TABLE runners ADD COLUMN runner_group TEXT;
ALTER TABLE runners ADD COLUMN is_open INTEGER NOT NULL DEFAULT 1;

CREATE TABLE held_sessions (
    runner TEXT NOT NULL REFERENCES runners ON DELETE CASCADE,
    session TEXT NOT NULL,
    profile TEXT NOT NULL,
    completed INTEGER NOT NULL,
    PRIMARY KEY (runner, session)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_holders ON held_sessions (session);
";

/// `tokens.runner_group`: the only group whose runners may use the token. `jobs.submitted_by`, `cancelled_by`: the
/// names of the tokens; NULL for the operator's socket.
const TOKENS: &str = "
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    runner_group TEXT,
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    expires INTEGER,
    used INTEGER
) STRICT, WITHOUT ROWID;

ALTER TABLE jobs ADD COLUMN submitted_by TEXT;
ALTER TABLE jobs ADD COLUMN cancelled_by TEXT;
CREATE INDEX submitted_jobs ON jobs (submitted_by, id) WHERE submitted_by IS NOT NULL;
";

/// `attempts.begun`: whether its guest has sent anything. `runners.strikes`: 0 while it is healthy; `retry`: when
/// an unhealthy one may try a job; `marked`: when it was last found unhealthy.
const HEALTH: &str = "
ALTER TABLE attempts ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runners ADD COLUMN drained INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runners ADD COLUMN strikes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runners ADD COLUMN marked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runners ADD COLUMN retry INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runners ADD COLUMN reason TEXT;

CREATE TABLE start_failures (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    runner TEXT NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (job, runner)
) STRICT, WITHOUT ROWID;
CREATE INDEX runner_failures ON start_failures (runner);
";

/// Of a shared database: the sealed secrets of jobs that have not ended, and which keys platforms seal
/// with, and when one last said so.
const SEALED: &str = "
CREATE TABLE secrets (
    job INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    key TEXT NOT NULL,
    sealed BLOB NOT NULL
) STRICT;

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Names of objects that a platform is about to make in a bucket.
const STAGED: &str = "
CREATE TABLE staged (
    name TEXT PRIMARY KEY,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";
