package database

import "context"

// Row is one row of a result: a *sql.Row, or *sql.Rows where they stand.
type Row interface {
	Scan(to ...any) error
}

// QueryAll returns what scan makes of each row that the query finds, in their
// order, and nil if there are none. It stops at the first error, which it
// returns as it is.
func QueryAll[T any](ctx context.Context, q Querier, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return all, nil
}
