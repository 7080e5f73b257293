package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const criSocket = "unix:///run/containerd/containerd.sock"

type imageStatus struct {
	ID          string   `json:"id"`
	RepoTags    []string `json:"repoTags"`
	RepoDigests []string `json:"repoDigests"`
	Size        string   `json:"size"`
}

// crictl answers the two questions that kind asks of a node: `crictl inspecti IMAGE` and `crictl images`.
// It speaks the protocol itself: the ready-made client has another signature in each minor.
func crictl(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	connection, err := grpc.NewClient(criSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	defer connection.Close()
	images := runtimeapi.NewImageServiceClient(connection)
	switch {
	case len(args) == 2 && args[0] == "inspecti":
		found, err := images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: args[1]}})
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		if found.Image == nil {
			fmt.Fprintln(stderr, "no such image:", args[1])
			return 1
		}
		status := imageStatus{found.Image.Id, found.Image.RepoTags, found.Image.RepoDigests, strconv.FormatUint(found.Image.Size, 10)}
		err = json.NewEncoder(stdout).Encode(map[string]imageStatus{"status": status})
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	case len(args) == 1 && args[0] == "images":
		list, err := images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		for _, image := range list.Images {
			fmt.Fprintln(stdout, image.Id, image.Size, image.RepoTags)
		}
	default:
		fmt.Fprintln(stderr, "usage: crictl inspecti IMAGE | images")
		return 2
	}
	return 0
}
