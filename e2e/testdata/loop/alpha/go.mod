module example.com/loop/alpha

go 1.26.0
