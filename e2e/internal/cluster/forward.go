package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // client-go's own dialer is made of it
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Dial connects to a port of a pod, through the API server and the node: no network policy is asked.
func (c *Cluster) Dial(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	url := c.API.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	connection, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport, Timeout: 10 * time.Second}, http.MethodPost, url).
		Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of pod %s: %w", port, pod, err)
	}
	headers := http.Header{}
	headers.Set(core.StreamType, core.StreamTypeError)
	headers.Set(core.PortHeader, strconv.Itoa(port))
	headers.Set(core.PortForwardRequestIDHeader, "0")
	failures, err := connection.CreateStream(headers)
	if err == nil {
		err = failures.Close() // we only read it
	}
	var data httpstream.Stream
	if err == nil {
		headers.Set(core.StreamType, core.StreamTypeData)
		data, err = connection.CreateStream(headers)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to port %d of pod %s: %w", port, pod, err), connection.Close())
	}
	f := &forwarded{Stream: data, connection: connection, address: address(fmt.Sprintf("%s.%s:%d", pod, namespace, port))}
	go func() {
		if text, _ := io.ReadAll(failures); len(text) > 0 {
			_ = f.Close() // whoever reads is told that nothing comes any more
		}
	}()
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), f.Close())
	}
	return f, nil
}

// forwarded is a connection to a port of a pod.
type forwarded struct {
	httpstream.Stream
	connection httpstream.Connection
	address    address
}

func (f *forwarded) Close() error { return errors.Join(f.Reset(), f.connection.Close()) }

func (f *forwarded) LocalAddr() net.Addr  { return f.address }
func (f *forwarded) RemoteAddr() net.Addr { return f.address }

// Deadlines are not kept: whoever is in a hurry closes the connection.
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

// address is <pod>.<namespace>:<port>.
type address string

func (address) Network() string  { return "pod" }
func (a address) String() string { return string(a) }

// Forward listens on a port of this machine and passes every connection on to a port of the pod, which may come and go.
// It returns the address, and what stops it.
func (c *Cluster) Forward(namespace, pod string, port int) (addr string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // stop
			}
			group.Go(func() {
				defer near.Close()
				far, err := c.Dial(ctx, namespace, pod, port)
				if err != nil {
					return // the other side sees its connection end
				}
				relay(ctx, near, far)
			})
		}
	})
	return listener.Addr().String(), func() {
		cancel()
		_ = listener.Close()
		group.Wait()
	}, nil
}

// relay passes on what comes from either side until one ends or ctx is done.
func relay(ctx context.Context, near, far net.Conn) {
	over, end := context.WithCancel(ctx)
	defer end()
	var group sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		group.Go(func() {
			defer end()
			_, _ = io.Copy(way[0], way[1]) // however it ends, it has ended
		})
	}
	<-over.Done()
	_ = near.Close()
	_ = far.Close()
	group.Wait()
}
