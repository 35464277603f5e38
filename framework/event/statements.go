package event

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// dialect is what the two kinds of database spell differently. Sets of rows
// travel as one JSON argument, so that a statement's text and count do not
// depend on how many rows it concerns.
type dialect struct {
	rows           func(columns string) string // a table t made of the JSON array $1
	now            string                      // the database's clock; $2 is the caller's
	bytewise       string                      // collation for sorting
	forUpdate      string
	skipLocked     string
	lockCursor     string // forUpdate of table c alone
	lockFreeCursor string // the same, and skipLocked
	workers        int    // a good number of workers
	locks          bool   // whether rows can be locked one by one
}

func dialectOf(db *database.DB) dialect {
	if db.Dialect() == database.Postgres {
		return postgres
	}
	return sqlite
}

// statements is the SQL of the ledger, each statement once.
type statements struct {
	// publishing
	number   string // rows(stream,key,n), now → stream,key,last,at,prev_at
	enqueue  string // rows(stream,key,seq,event_id,type,body,at)
	schedule string // rows(stream,key,event_id,type,due_at,body)

	// the due step
	nextDue, dueKeys, lockKeys, takeDue string

	// the relay
	unsent, markSent, markMissing, lastSent, depth string

	// the archive
	enterBroker, doubt, missing, unsend, clearMissing, forgetBrokers, prune, pruneJournal, pruneAttempts string

	// replicas
	attend, forgetProcesses, retire, leaseHolder, lease, releaseLease string

	// a batch
	createCursors, lockCursors, lockFreeCursors, readParked, insertParked, deleteParked, updateCursors string
	insertJournal, insertAttempts, insertLetters, clearGaps, knownTypes                                string

	// the sweep
	wakeUps, firstParked, updateParked string

	// start-up
	subscribe, since, addType, removeType string

	// metrics
	countParked, countLetters, brokers string
}

func newStatements(d dialect) *statements {
	const (
		keys    = "stream text, key text"
		seqs    = "stream text, key text, seq bigint"
		cursors = "stream text, key text, seq bigint, event_id text, parked bigint, wake_at bigint"
		parked  = "stream text, key text, seq bigint, state text, attempts bigint, due_at bigint, error text, body text, at bigint"

		// Doubts and marks are not written in the order of their times.
		earliest = "CASE WHEN missing_since < $2 THEN missing_since ELSE $2 END"
	)
	cursorsOf := `
SELECT c.stream, c.key, c.seq, c.event_id, c.parked, c.wake_at
FROM event_cursor c JOIN ` + d.rows(keys) + ` ON c.stream = t.stream AND c.key = t.key
WHERE c.grp = $2 ORDER BY c.stream, c.key`
	sorted := "ORDER BY t.stream" + d.bytewise + ", t.key" + d.bytewise
	return &statements{
		// The upsert takes the row's lock and holds it to the commit. A row
		// sequence has no holes: an abort gives its numbers back.
		number: `
INSERT INTO event_sequence AS q (stream, key, last, at)
SELECT t.stream, t.key, t.n, ` + d.now + ` FROM ` + d.rows("stream text, key text, n bigint") + ` WHERE true ` + sorted + `
ON CONFLICT (stream, key) DO UPDATE SET last = q.last + excluded.last, prev_at = q.at, at = ` + d.now + `
RETURNING stream, key, last, at, prev_at`,
		enqueue: `
INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at)
SELECT t.stream, t.key, t.seq, t.event_id, t.type, t.body, t.at
FROM ` + d.rows("stream text, key text, seq bigint, event_id text, type text, body text, at bigint"),
		schedule: `
INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body)
SELECT t.stream, t.key, t.event_id, t.type, t.due_at, t.body
FROM ` + d.rows("stream text, key text, event_id text, type text, due_at bigint, body text"),

		nextDue: `SELECT min(due_at) FROM event_scheduled`,
		dueKeys: `SELECT DISTINCT stream, key FROM event_scheduled WHERE due_at <= $1 LIMIT 100`,
		lockKeys: `
INSERT INTO event_sequence AS q (stream, key, last)
SELECT t.stream, t.key, 0 FROM ` + d.rows(keys) + ` WHERE true ` + sorted + `
ON CONFLICT (stream, key) DO UPDATE SET last = q.last`,
		takeDue: `
DELETE FROM event_scheduled WHERE due_at <= $2 AND (stream, key) IN (SELECT t.stream, t.key FROM ` + d.rows(keys) + `)
RETURNING id, stream, key, event_id, type, due_at, body`,

		unsent:   `SELECT id, stream, body FROM event_outbox WHERE sent_at IS NULL ORDER BY id LIMIT $1` + d.skipLocked,
		markSent: `UPDATE event_outbox SET sent_at = $2 WHERE id IN (SELECT t.id FROM ` + d.rows("id bigint") + `)`,
		// Not only where it is null: the row's lock has whoever sends again
		// what the broker misses wait for this transaction.
		markMissing: `
UPDATE event_broker SET missing_since = ` + earliest + `
WHERE broker NOT IN (SELECT t.broker FROM ` + d.rows("broker text") + `)`,
		lastSent: `SELECT max(sent_at) FROM event_outbox WHERE sent_at IS NOT NULL`,

		enterBroker: `INSERT INTO event_broker (broker, since) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		doubt: `
UPDATE event_broker SET missing_since = ` + earliest + `
WHERE broker = $1`,
		missing:      `SELECT missing_since FROM event_broker WHERE broker = $1`,
		unsend:       `UPDATE event_outbox SET sent_at = NULL WHERE sent_at >= $1`,
		clearMissing: `UPDATE event_broker SET missing_since = NULL WHERE broker = $1`,
		forgetBrokers: `
DELETE FROM event_broker WHERE missing_since < $1 AND NOT EXISTS (
    SELECT 1 FROM event_process p WHERE p.seen_at >= $2 AND '+' || p.brokers || '+' LIKE '%+' || event_broker.broker || '+%')`,
		prune: `
DELETE FROM event_outbox WHERE id IN (
    SELECT id FROM event_outbox WHERE sent_at < $1 ORDER BY sent_at LIMIT $2` + d.skipLocked + `)`,
		pruneJournal: `
DELETE FROM event_journal WHERE id IN (
    SELECT id FROM event_journal WHERE applied_at < $1 ORDER BY applied_at LIMIT $2` + d.skipLocked + `)`,
		pruneAttempts: `
DELETE FROM event_attempt WHERE id IN (
    SELECT id FROM event_attempt WHERE at < $1 ORDER BY at LIMIT $2` + d.skipLocked + `)`,

		attend: `
INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (process) DO UPDATE SET seen_at = excluded.seen_at`,
		forgetProcesses: `DELETE FROM event_process WHERE seen_at < $1`,
		retire:          `DELETE FROM event_process WHERE process = $1`,
		leaseHolder:     `SELECT holder, until - (` + d.now + `) FROM event_lease WHERE name = $1`,
		lease: `
INSERT INTO event_lease AS l (name, holder, until) VALUES ($1, $3, ` + d.now + ` + $4)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE l.holder = excluded.holder OR l.until < ` + d.now,
		releaseLease: `DELETE FROM event_lease WHERE name = $1 AND holder = $2`,
		depth:        `SELECT count(*), min(at) FROM event_outbox WHERE sent_at IS NULL`,

		// Three statements, not one or two: see the rules in doc.go.
		createCursors: `
INSERT INTO event_cursor (grp, stream, key)
SELECT $2, t.stream, t.key FROM ` + d.rows(keys) + ` WHERE true ` + sorted + `
ON CONFLICT DO NOTHING`,
		lockCursors:     cursorsOf + d.lockCursor,
		lockFreeCursors: cursorsOf + d.lockFreeCursor,
		readParked: `
SELECT p.stream, p.key, p.seq, p.state, p.attempts, p.due_at, p.body, p.at
FROM ` + d.rows(seqs) + ` JOIN event_parked p ON p.stream = t.stream AND p.key = t.key
WHERE p.grp = $2 AND p.seq <= t.seq ORDER BY p.stream, p.key, p.seq`,
		insertParked: `
INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at)
SELECT $2, t.stream, t.key, t.seq, t.state, t.attempts, t.due_at, t.error, t.body, t.at
FROM ` + d.rows(parked) + ` WHERE true ON CONFLICT DO NOTHING RETURNING stream, key`,
		deleteParked: `
DELETE FROM event_parked WHERE grp = $2 AND (stream, key, seq) IN (SELECT t.stream, t.key, t.seq FROM ` + d.rows(seqs) + `)
RETURNING stream, key`,
		updateCursors: `
UPDATE event_cursor AS c SET seq = t.seq, event_id = t.event_id, parked = t.parked, wake_at = t.wake_at
FROM ` + d.rows(cursors) + ` WHERE c.grp = $2 AND c.stream = t.stream AND c.key = t.key`,
		insertJournal: `
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at)
SELECT $2, t.stream, t.key, t.seq, t.event_id, t.type, t.at
FROM ` + d.rows("stream text, key text, seq bigint, event_id text, type text, at bigint"),
		insertAttempts: `
INSERT INTO event_attempt (grp, stream, key, seq, event_id, attempt, error, at)
SELECT $2, t.stream, t.key, t.seq, t.event_id, t.attempt, t.error, t.at
FROM ` + d.rows("stream text, key text, seq bigint, event_id text, attempt bigint, error text, at bigint"),
		insertLetters: `
INSERT INTO event_letter (grp, stream, key, seq, kind, error, body, at)
SELECT $2, t.stream, t.key, t.seq, t.kind, t.error, t.body, t.at
FROM ` + d.rows("stream text, key text, seq bigint, kind text, error text, body text, at bigint") + `
WHERE NOT EXISTS (
    SELECT 1 FROM event_letter e
    WHERE e.grp = $2 AND e.stream = t.stream AND e.key = t.key AND e.seq = t.seq AND e.kind = t.kind AND e.body = t.body)
RETURNING stream, key, seq, kind, error`,
		clearGaps: `
DELETE FROM event_letter WHERE grp = $2 AND kind = 'gap'
AND (stream, key) IN (SELECT t.stream, t.key FROM ` + d.rows(keys) + `)`,
		knownTypes: `SELECT stream, type FROM event_type WHERE grp = $1`,

		wakeUps: `SELECT stream, key, wake_at FROM event_cursor WHERE grp = $1 AND wake_at IS NOT NULL ORDER BY wake_at LIMIT $2`,
		firstParked: `
SELECT stream, key, seq, state, attempts, due_at, body, at
FROM event_parked WHERE grp = $1 AND stream = $2 AND key = $3 ORDER BY seq LIMIT 1`,
		updateParked: `
UPDATE event_parked AS p SET state = t.state, attempts = t.attempts, due_at = t.due_at, error = t.error
FROM ` + d.rows("stream text, key text, seq bigint, state text, attempts bigint, due_at bigint, error text") + `
WHERE p.grp = $2 AND p.stream = t.stream AND p.key = t.key AND p.seq = t.seq`,

		subscribe:  `INSERT INTO event_subscription (grp, stream, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		since:      `SELECT since FROM event_subscription WHERE grp = $1 AND stream = $2`,
		addType:    `INSERT INTO event_type (grp, stream, type) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		removeType: `DELETE FROM event_type WHERE grp = $1 AND stream = $2 AND type = $3`,

		countParked:  `SELECT grp, stream, state, count(*), min(at) FROM event_parked GROUP BY grp, stream, state`,
		countLetters: `SELECT grp, stream, kind, count(*), min(at) FROM event_letter GROUP BY grp, stream, kind`,
		brokers:      `SELECT broker, missing_since FROM event_broker`,
	}
}

// asRows encodes a set of rows as the argument that dialect.rows reads.
func asRows(rows any) string {
	b, err := json.Marshal(rows)
	if err != nil {
		// Rows are structs of strings and numbers.
		panic(fmt.Sprintf("event: encode rows: %v", err))
	}
	return string(b)
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
