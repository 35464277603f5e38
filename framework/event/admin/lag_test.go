package admin_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event/admin"
)

func TestLag(t *testing.T) {
	at := func(us int64) time.Time { return time.UnixMicro(us).UTC() }
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		ledgers := whole(open, "payments", `
UPDATE event_cursor SET seq = 0 WHERE key = 't1';
DELETE FROM event_cursor WHERE key = 't2';
INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES ('payments', 'tickets', 't1', 2, 'early', 0, 1, '', '', 1);`)
		upToDate := admin.GroupLag{Service: "orders", Group: "orders", Stream: "tickets", Top: []admin.KeyLag{}}
		behind := admin.GroupLag{Service: "payments", Group: "payments", Stream: "tickets", Events: 3, Keys: 2, Oldest: at(1000), Top: []admin.KeyLag{
			{Key: "t1", Committed: 2, Applied: 0, Aside: 1, Oldest: at(1000)}, {Key: "t2", Committed: 1, Oldest: at(3000)},
		}}
		cut := behind
		cut.Top = behind.Top[:1]
		for _, test := range []struct {
			f    admin.Filter
			want []admin.GroupLag
		}{
			{admin.Filter{}, []admin.GroupLag{upToDate, behind}},
			{admin.Filter{Limit: 1}, []admin.GroupLag{upToDate, cut}},
			{admin.Filter{Group: "payments"}, []admin.GroupLag{behind}},
			{admin.Filter{Group: "payments", Key: "t1"}, []admin.GroupLag{{Service: "payments", Group: "payments", Stream: "tickets", Events: 2, Keys: 1, Oldest: at(1000), Top: behind.Top[:1]}}},
			{admin.Filter{Stream: "other"}, []admin.GroupLag{}},
		} {
			lags, err := admin.Lag(t.Context(), ledgers, test.f)
			if err != nil || !reflect.DeepEqual(lags, test.want) {
				t.Errorf("%+v: %v\n%+v\nwant\n%+v", test.f, err, lags, test.want)
			}
		}
		// Of a stream whose producer is not asked nothing is known.
		if lags, err := admin.Lag(t.Context(), ledgers[1:], admin.Filter{}); err != nil || len(lags) != 0 {
			t.Errorf("without the producer: %v, %+v", err, lags)
		}
	})
}
