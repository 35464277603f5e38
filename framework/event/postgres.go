package event

// postgres says how PostgreSQL spells what differs.
var postgres = dialect{
	rows: func(columns string) string {
		return "json_to_recordset($1::text::json) AS t(" + columns + ")"
	},
	now:            "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 0 * $2::bigint",
	bytewise:       ` COLLATE "C"`,
	forUpdate:      " FOR UPDATE",
	skipLocked:     " FOR UPDATE SKIP LOCKED",
	lockCursor:     " FOR UPDATE OF c",
	lockFreeCursor: " FOR UPDATE OF c SKIP LOCKED",
	workers:        4,
	locks:          true,
}
