// Predict asks a tickserve server for predictions. Its stubs are made from protos/ alone.
//
//	build/predict 127.0.0.1:8500 sp500-logistic
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "tickserve.example/predict/build/tickserve/v1"
)

const (
	// A trading engine beside its server would allow a few milliseconds.
	deadline      = time.Second
	firstBackoff  = 2 * time.Millisecond
	streamLength  = 8
	streamBadItem = 3
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: predict ADDRESS MODEL")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "predict:", err)
		os.Exit(1)
	}
}

func run(address, model string) error {
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewPredictionClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// Connecting is the one wait that a first call may have; every later one fails at once without a connection.
	info, err := client.GetModel(ctx, &pb.GetModelRequest{Model: model}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	fmt.Printf("%s version %s takes %v\n", info.Model, info.Version, info.FeatureNames)

	answer, err := predict(client, request(info, "go-1"))
	if err != nil {
		return err
	}
	fmt.Printf("%s: values %v, signal %v, version %s (%v), digest %x, %d us in the server\n", answer.RequestId,
		answer.Values, answer.Signal, answer.Version, answer.Role, answer.Digest[:6], answer.ServerDurationNs/1000)

	bad := request(info, "go-2")
	bad.Features[0] = float32(math.NaN())
	if _, err = predict(client, bad); err == nil {
		return fmt.Errorf("a NaN was answered")
	}
	fmt.Println("go-2:", err)

	return stream(client, info)
}

// request is one row at zero. The digest says which order the features are in: the server refuses it when that changed.
func request(info *pb.ModelInfo, id string) *pb.PredictRequest {
	return &pb.PredictRequest{
		Model:           info.Model,
		RequestId:       id,
		Features:        make([]float32, width(info)),
		FeatureDigest:   info.FeatureDigest,
		EventTimeUnixNs: time.Now().UnixNano(),
	}
}

func width(info *pb.ModelInfo) int64 {
	shape := info.Inputs[0].Shape
	return shape[len(shape)-1]
}

// predict returns the answer, or a *refusal. It tries again until the deadline, but only what cannot count twice.
func predict(client pb.PredictionClient, request *pb.PredictRequest) (*pb.PredictResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for backoff := firstBackoff; ; backoff *= 2 {
		var trailers metadata.MD
		answer, err := client.Predict(ctx, request, grpc.Trailer(&trailers))
		if err == nil {
			return answer, nil
		}
		refused := &refusal{status.Convert(err), first(trailers, "tickserve-reason"), first(trailers, "tickserve-executed")}
		if !refused.mayRetry() {
			return nil, refused
		}
		select {
		case <-ctx.Done():
			return nil, refused
		case <-time.After(backoff):
		}
	}
}

// refusal is a status with what the server's trailers say of it; they are empty where gRPC itself refused.
type refusal struct {
	status   *status.Status
	reason   string
	executed string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v / %s: %s (executed: %s)", r.status.Code(), r.reason, r.status.Message(), r.executed)
}

// mayRetry holds where the condition may pass by itself and the server says that the model did not run.
func (r *refusal) mayRetry() bool {
	code := r.status.Code()
	return r.executed == "0" && (code == codes.Unavailable || code == codes.ResourceExhausted)
}

func first(trailers metadata.MD, key string) string {
	if values := trailers.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// stream sends its requests without waiting for answers; one of them is bad, which must not end the stream.
func stream(client pb.PredictionClient, info *pb.ModelInfo) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	open, err := client.PredictStream(ctx)
	if err != nil {
		return err
	}
	go func() {
		for sequence := range uint64(streamLength) {
			message := request(info, fmt.Sprintf("go-stream-%d", sequence))
			message.TimeoutUs = uint64(deadline.Microseconds())
			if sequence == streamBadItem {
				message.FeatureDigest = make([]byte, 32)
			}
			wrapped := &pb.PredictStreamRequest_Predict{Predict: message}
			if open.Send(&pb.PredictStreamRequest{Sequence: sequence, Request: wrapped}) != nil {
				return // Recv says why.
			}
		}
		_ = open.CloseSend()
	}()
	for sequence := range uint64(streamLength) {
		received, err := open.Recv()
		if err != nil {
			return fmt.Errorf("the stream ended after %d answers: %w", sequence, err)
		}
		if received.Sequence != sequence {
			return fmt.Errorf("the stream answered %d, expected %d", received.Sequence, sequence)
		}
		refused := received.GetError()
		if (refused != nil) != (sequence == streamBadItem) {
			return fmt.Errorf("the stream answered %d with %v", sequence, received)
		}
		if refused != nil {
			fmt.Printf("stream %d: %v: %s (executed: %t)\n", sequence, refused.Reason, refused.Message, refused.Executed)
		} else {
			fmt.Printf("stream %d: values %v\n", sequence, received.GetAnswer().Values)
		}
	}
	if _, err := open.Recv(); err != io.EOF {
		return fmt.Errorf("the stream went on, or ended with %v", err)
	}
	return nil
}
