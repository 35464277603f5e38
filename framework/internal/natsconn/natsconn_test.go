package natsconn

import "testing"

func TestAddresses(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://127.0.0.1:4222":                        "nats://127.0.0.1:4222",
		"nats://ann:hush@host:4222, nats://other:4222": "nats://ann:xxxxx@host:4222,nats://other:4222",
		"nats://hush@host:4222":                        "nats://xxxxx@host:4222",
		"nats://ann:hush@host:port":                    "(unreadable)",
		"host:4222":                                    "nats://host:4222",
		"ann:hush@host:4222":                           "nats://ann:xxxxx@host:4222",
	} {
		if got := Addresses(urls); got != want {
			t.Errorf("%s is shown as %s, want %s", urls, got, want)
		}
	}
}
