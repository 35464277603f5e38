module example.com/loop/beta

go 1.26.0
